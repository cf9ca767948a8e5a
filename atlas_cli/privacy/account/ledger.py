"""A privacy ledger: what runs on the same rows told of them, in one JSON file that all of them read and add to.

    {"format": "atlas privacy ledger 1", "runs": [{"run", "name", "started", "seed", "experiment_sha256", "rounds",
     "clients": {NAME: {"rows": [hashes], "told": {CHANNEL: {"kind", "times", "noise", "rate"}}}},
     "frozen": {NAME: round}}]}

A run is counted for a client if it trained on one of the client's rows, whoever held it: rows are known by a hash of
their text, so that another partition, sample or order of the data changes nothing. What it told is composed as events
(``events``) after it was brought to the unit of the present run:

    a client, k of whose rows were examples of DP-SGD         k^2 times (a sum that moves by k clips, not amplified)
    a client whose rows m clients held                         m^2 times
    an example, in updates of m clients that held it           4 m^2 times (an update turns by up to 2 clips)
    an example, its words or its label, that m clients held    m times

An entry says what its run will have told by the end of the round that it is about to begin, so that a run that is
killed has told at most that. Times in an entry never fall; a round that is trained again draws the same noise and tells
nothing new.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atlas_cli.errors import ConfigError, OutputError, ResourceError
from atlas_cli.privacy.account.events import KINDS, Event, Events, together
from atlas_cli.storage.file_lock import take
from atlas_cli.storage.moving import move
from atlas_cli.storage.strict_json import strict_json
from atlas_cli.storage.writing import writing

FORMAT = "atlas privacy ledger 1"
_PATIENCE = 60.0  # seconds: each holds the lock for as long as it takes to read and write the file
_FACTS = {"run": str, "name": str, "started": str, "seed": int, "experiment_sha256": str, "rounds": int}


@dataclass(frozen=True)
class Told:
    """What a client of a run told.

    Attributes:
        rows: hashes of its training rows, in order.
        events: by channel.
    """

    rows: tuple[str, ...]
    events: Mapping[str, Event]

    def rows_apart(self, rows: Collection[str]) -> bool:
        """Whether none of some rows is among them."""
        return not any(row in rows for row in self.rows)


@dataclass(frozen=True)
class Entry:
    """A run on the ledger.

    Attributes:
        run: a random name.
        name, started: of the run, for who reads the file.
        seed: of its noise; ``experiment_sha256``: of its config.
        rounds: the last round that has begun.
        clients: by name.
        frozen: by client that its budget froze, the first round in which it was not drawn.
    """

    run: str
    name: str
    started: str
    seed: int
    experiment_sha256: str
    rounds: int
    clients: Mapping[str, Told]
    frozen: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """The ledger in a file, which is made by the first run that adds to it.

    Raises:
        ResourceError: it cannot be read, or is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read()

    def read(self) -> list[Entry]:
        """All runs on it.

        Raises:
            ResourceError: it cannot be read, or is no ledger; names the entry.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if not self.path.absolute().parent.is_dir():
                raise ResourceError(f"{self.path}: there is no folder {self.path.parent}; make it first") from None
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise ResourceError(f"{self.path} cannot be read as a privacy ledger: {error}") from None
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format is {content['format']!r}, expected {FORMAT!r}")
            return [_entry(each, f"runs[{i}]") for i, each in enumerate(content["runs"])]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ResourceError(
                f"{self.path} is no privacy ledger of atlas, or is damaged ({type(error).__name__}: {error}); restore "
                "it, since what it counted is not known without it"
            ) from None

    def add(self, entry_of: Callable[[list[Entry]], Entry]) -> None:
        """Add a run, or what it will have told by the end of a round; called before that round.

        Args:
            entry_of: makes the entry, given all runs that are on the ledger; an error there leaves it as it is. Nobody
                else adds to it meanwhile.

        Raises:
            OutputError: it cannot be written, or another process holds it for a minute.
        """
        with self._locked():
            before = self.read()
            entries, entry = {each.run: each for each in before}, entry_of(before)
            entries[entry.run] = _larger(entries.get(entry.run), entry)
            self._write(list(entries.values()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = take(self.path.with_name(f".{self.path.name}.lock"), _PATIENCE)
        if lock is None:
            raise OutputError(
                f"{self.path} is held by another process for {_PATIENCE:g} s; start again when it is free"
            )
        try:
            yield
        finally:
            lock.release()

    def _write(self, entries: Sequence[Entry]) -> None:
        text = strict_json({"format": FORMAT, "runs": [_record(entry) for entry in entries]}, indent=1)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with writing(self.path):
            try:
                with partial.open("wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
                move(partial, self.path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise


def told_before(
    entries: Sequence[Entry], rows: Mapping[str, Sequence[str]], units: Mapping[str, str]
) -> dict[str, dict[str, Events]]:
    """What runs told before of each client with these rows, or of the one of its rows that they told the most of.

    Args:
        rows: hashes of each client's training rows.
        units: by channel, whether its epsilon is of a "client" or of an "example" (its words, its label).

    Returns:
        By client that is on the ledger, and channel: events in terms of this unit.
    """
    found: dict[str, dict[str, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        holding = defaultdict(set)
        for name, told in entry.clients.items():
            for row in told.rows:
                holding[row].add(name)
        for client, own in rows.items():
            shared = {row: holding[row] for row in own if row in holding}
            holders = sorted(set().union(*shared.values()))
            for channel, unit in units.items() if holders else ():
                events = {c: e for c in holders if (e := entry.clients[c].events.get(channel)) is not None}
                if not events:
                    continue
                if unit == "client":
                    found[client][channel] += _of_client(events, shared, entry)
                else:
                    most = max(len(names) for names in shared.values())
                    found[client][channel].append(_of_example(list(events.values()), most, channel))
    return {client: {c: together(e) for c, e in channels.items()} for client, channels in found.items()}


def _of_client(events: Mapping[str, Event], shared: Collection[str], entry: Entry) -> Iterator[Event]:
    worst = max(events.values(), key=lambda event: (event.kind == "none", event.times))
    if worst.kind != "sampled-gaussian":
        yield worst._replace(times=worst.times * len(events) ** 2)
        return
    for name, event in events.items():
        examples = sum(row in shared for row in entry.clients[name].rows)
        yield Event("gaussian", event.times * examples**2, event.noise)


def _of_example(events: list[Event], holders: int, channel: str) -> Event:
    """The largest of every figure: of two clients one may have the larger rate and the other more steps."""
    worst = max(events, key=lambda event: (event.kind == "none", event.times))
    worst = worst._replace(rate=max(event.rate for event in events))
    whole_updates = channel == "updates" and worst.kind == "gaussian"
    return worst._replace(times=worst.times * (4 * holders**2 if whole_updates else holders))


def _larger(before: Entry | None, now: Entry) -> Entry:
    """The entry with the larger figures of both, so that no figure falls."""
    if before is None:
        return now
    clients = dict(before.clients)
    for name, told in now.clients.items():
        events = dict(clients[name].events) if name in clients else {}
        for channel, event in told.events.items():
            old = events.get(channel)
            events[channel] = event if old is None or old.times <= event.times else old
        clients[name] = Told(told.rows, events)
    later = now if now.rounds >= before.rounds else before
    return replace(now, started=before.started, rounds=later.rounds, clients=clients, frozen=later.frozen)


def _record(entry: Entry) -> dict[str, Any]:
    clients = {
        name: {"rows": list(told.rows), "told": {channel: event._asdict() for channel, event in told.events.items()}}
        for name, told in entry.clients.items()
    }
    return {**{fact: getattr(entry, fact) for fact in _FACTS}, "clients": clients, "frozen": dict(entry.frozen)}


def _entry(record: Mapping[str, Any], where: str) -> Entry:
    for fact, kind in _FACTS.items():
        if type(record[fact]) is not kind:
            raise ValueError(f"{where}.{fact} is no {kind.__name__}")
    clients = {name: _told(told, f"{where}.clients.{name}") for name, told in record["clients"].items()}
    frozen = record["frozen"]
    if not isinstance(frozen, dict) or not all(type(first) is int and first > 0 for first in frozen.values()):
        raise ValueError(f"{where}.frozen has no rounds")
    return Entry(**{fact: record[fact] for fact in _FACTS}, clients=clients, frozen=frozen)


def _told(record: Mapping[str, Any], where: str) -> Told:
    rows = tuple(record["rows"])
    if not all(isinstance(row, str) for row in rows):
        raise ValueError(f"{where}.rows are no hashes")
    events = {}
    for channel, figures in record["told"].items():
        event = Event(**figures)
        numbers = (event.times, event.noise, event.rate)
        if event.kind not in KINDS or not all(type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError(f"{where}.told.{channel} is no event")
        events[channel] = event
    return Told(rows, events)


def require_other_noise(
    entries: Sequence[Entry], rows: Collection[str], run: str, seed: int, experiment_sha256: str
) -> None:
    """Check that no other experiment on some of these rows drew its noise from the same seed.

    Raises:
        ConfigError: one did: who sees both can subtract the noise of one from the other's.
    """
    for entry in entries:
        other = entry.run != run and entry.seed == seed and entry.experiment_sha256 != experiment_sha256
        if other and any(not told.rows_apart(rows) for told in entry.clients.values()):
            raise ConfigError(
                f"on the ledger is another experiment on the same rows ({entry.name}, started {entry.started}) that "
                f"drew its noise from {seed}, too: equal noise cancels, and no epsilon of both together holds; give "
                "another seed",
                key="seed",
            )
