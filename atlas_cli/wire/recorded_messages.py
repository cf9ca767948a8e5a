"""Messages as they crossed the wire, kept in the run directory for ``atlas audit``.

``messages/round-00001/<client>/00017-activations-up.safetensors`` is the 17th message that the ledger counted of that
client in that round, byte for byte as serialised: exactly what the server, or an eavesdropper on the network, sees.
With a compact header (``wire.serialized``) its name ends in ``.compact``. What never crosses the wire is not recorded:
texts and token ids (but for the labels of language modelling, which are the text, and which ``labels: client`` keeps
back). The frozen weights of set-up are public and left out. ``messages/index.jsonl`` lists them with their hashes,
which are checked when one is read, and all of them when a run goes on.
"""

from __future__ import annotations

import builtins
import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from atlas_cli.config.schema.audit import RecordConfig
from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.seals import INDEX
from atlas_cli.storage.folder_names import folder_names
from atlas_cli.storage.writing import writing
from atlas_cli.units import parse_bytes
from atlas_cli.wire.messages import (
    TYPES,
    BaseRows,
    BaseTotal,
    BaseWeights,
    Delivery,
    Direction,
    HeadDelivery,
    Message,
)
from atlas_cli.wire.serialized import MARK, SUFFIXES, from_bytes

FOLDER = "messages"
_DAMAGED = "restore the file from a copy, or record the run again"
_OF_BASE = (BaseRows, BaseTotal)
_DELIVERED = (Delivery, HeadDelivery, *_OF_BASE)
M = TypeVar("M", bound=Message)


class Recording:
    """Writes the messages of some rounds and clients; training is not affected.

    Args:
        clients: all clients of the run.
        done: rounds that were completed; recorded messages of later rounds are removed, as these are run again. None
            for a new run.
        changes: whether deliveries are changes of earlier ones (``wire.deliveries``).

    Raises:
        ResourceError: recorded messages of completed rounds are damaged.
    """

    def __init__(
        self, config: RecordConfig, clients: Iterable[str], run: RunDirectory, done: int | None, changes: bool = False
    ) -> None:
        self.config, self.run, self._changes = config, run, changes
        self._folders = folder_names(clients)
        self.limit = int(parse_bytes(config.limit))
        root = run.path / FOLDER
        for folder in root.glob("round-*"):
            if done is None or _round_of(folder) > done:
                with writing(folder):
                    shutil.rmtree(folder)
        kept = recorded_messages(run) if done is not None else []
        self.messages, self.bytes = len(kept), sum(message.bytes for message in kept)
        self.complete = done is None or not any(line["file"] is None for line in run.read_lines(INDEX))
        self._taken: list[dict[str, object]] = []

    def watch(self, number: int) -> Callable[[Message], None] | None:
        """The callback of a round's ledger; None if nothing of the round is recorded.

        The server's deliveries of the round before are kept, too, as clients start a round with them; and every change
        of the base until then, because what clients run is the sum of them, and every delivery that is a change.
        """
        rounds = self.config.rounds
        before = number + 1 in rounds
        whole, base = number in rounds, number < max(rounds)
        if not (whole or before or base):
            return None
        counts: Counter[str] = Counter()

        def keep(message: Message) -> None:
            delivery = (before or (base and self._changes)) and isinstance(message, _DELIVERED)
            if whole or delivery or (base and isinstance(message, _OF_BASE)):
                self._keep(message, number, counts)

        return keep

    def _keep(self, message: Message, number: int, counts: Counter[str]) -> None:
        known = self.config.clients == "all" or message.client in self.config.clients
        if isinstance(message, BaseWeights) or not known or not self.complete:
            return
        counts[message.client] += 1
        line = {
            "round": number,
            "client": message.client,
            "number": counts[message.client],
            "kind": message.kind,
            "direction": message.direction,
            "bytes": message.bytes,
        }
        if self.bytes + message.bytes > self.limit:
            self.complete = False
            self._taken.append({**line, "file": None, "sha256": None})
            self.run.log(f"recording ended in round {number}: audit.record.limit, {self.config.limit}, is reached")
            return
        content = message.serialized()
        suffix = SUFFIXES[content[0] == MARK]
        name = f"{counts[message.client]:05d}-{message.kind}-{message.direction}{suffix}"
        path = self.run.path / FOLDER / f"round-{number:05d}" / self._folders[message.client] / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        file = path.relative_to(self.run.path / FOLDER).as_posix()
        self._taken.append({**line, "bytes": len(content), "file": file, "sha256": hashlib.sha256(content).hexdigest()})
        self.messages += 1
        self.bytes += message.bytes

    def new_lines(self) -> list[dict[str, object]]:
        """Lines of the index for the messages recorded since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def record(self) -> dict[str, object]:
        """For the manifest; ``complete`` is false if the limit was reached."""
        return {"messages": self.messages, "bytes": self.bytes, "complete": self.complete}


@dataclass(frozen=True)
class RecordedMessage:
    """One recorded message; ``number`` is its place among those of its client and round, from 1."""

    round: int
    client: str
    number: int
    kind: str
    direction: Direction
    path: Path
    bytes: int
    sha256: str

    @property
    def type(self) -> type[Message]:
        """The class of the message."""
        return TYPES[self.kind, self.direction]

    def message(self) -> Message:
        """What was sent.

        Raises:
            ResourceError: as ``read``.
        """
        return self.read(self.type)

    def read(self, kind: builtins.type[M]) -> M:
        """The message, which must be of this ``type``.

        Raises:
            ResourceError: the file is missing or was changed.
        """
        try:
            return kind.of(self.client, from_bytes(self.content()))
        except (SafetensorError, TypeError, ValueError, LookupError, RuntimeError) as error:
            raise ResourceError(f"{self.path}: cannot be read as a message: {error}; record the run again") from None

    def content(self) -> builtins.bytes:
        """The bytes of the file, as they were written.

        Raises:
            ResourceError: as ``read``.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ResourceError(f"{self.path}: this message cannot be read: {error.strerror}; {_DAMAGED}") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ResourceError(f"{self.path}: not the message that was recorded (by hash); {_DAMAGED}")
        return content


def recorded_messages(run: RunDirectory, size: int | None = None, until: int | None = None) -> list[RecordedMessage]:
    """All recorded messages of a run by round, client and order; [] if nothing was recorded.

    Args:
        size: bytes of the index to read; None for all.
        until: the last round to read; None for all.

    Raises:
        ResourceError: the index is damaged, a listed file is missing, or a file is not listed.
    """
    root = run.path / FOLDER
    found_files = (path for suffix in SUFFIXES for path in root.glob(f"round-*/*/*{suffix}"))
    files = {path.relative_to(root).as_posix(): path for path in found_files}
    if until is not None:
        files = {name: path for name, path in files.items() if _round_of(path.parent.parent) <= until}
    found = []
    for line in run.read_lines(INDEX, size):
        if (name := line.pop("file")) is None:
            continue
        if name not in files:
            raise ResourceError(f"{root / name} is missing, which {INDEX} lists; {_DAMAGED}")
        found.append(RecordedMessage(**line, path=files.pop(name)))
    if files:
        raise ResourceError(
            f"{min(files.values())} is not in {INDEX}: it was put there, or the run was killed in that round; go on "
            "with the run (atlas train --resume), or remove the file"
        )
    return sorted(found, key=lambda message: (message.round, message.client, message.number))


def require_recorded(run: RunDirectory, size: int, until: int) -> None:
    """Check every message that was recorded until a checkpoint; ``size`` is that of the index by then.

    Raises:
        ResourceError: as ``recorded_messages``, or a file was changed.
    """
    for message in recorded_messages(run, size, until):
        message.content()


def _round_of(folder: Path) -> float:
    number = folder.name.removeprefix("round-")
    return int(number) if number.isdecimal() else math.inf
