"""``partition: {scheme: explicit}``: the rows that the config names, by their numbers in the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from atlas_cli.config.named_rows import named_twice, ranges_of
from atlas_cli.data.rows import RowNumbers
from atlas_cli.errors import ConfigError
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean

SHOWN = 10  # row numbers that a line names
SHOWN_CLIENTS = 5  # with mistakes, a line each


def by_name(
    numbered: RowNumbers,
    clients: Sequence[str],
    named: Mapping[str, list[int | str]] | None,
    group: str,
    min_examples: int,
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Training rows by client, and by client a note on rows that it names and does not get.

    Raises:
        ConfigError: a client without a shard, a row that is not there or named twice, a malformed range, a client with
            fewer than ``min_examples`` training rows: of the first clients with mistakes a line each with all of them,
            in the order of ``named``, and the number of the others.
    """
    if named is None:
        raise ConfigError("scheme: explicit needs the rows of every client", key="partition.shards")
    if unnamed := [client for client in clients if client not in named]:
        who = f"client {unnamed[0]}" if len(unnamed) == 1 else f"clients {listed(unnamed, SHOWN_CLIENTS)}"
        raise ConfigError(
            f"{who} of task group {group} {'is' if len(unnamed) == 1 else 'are'} not named"
            f"{did_you_mean(unnamed[0], named)}",
            key="partition.shards",
        )
    asked = frozenset(clients)
    wrong: dict[str, list[str]] = {}
    rows: dict[str, list[range]] = {}
    for client in filter(asked.__contains__, named):
        rows[client], mistakes = ranges_of(named[client], group, numbered.read)
        if mistakes:
            wrong[client] = mistakes
    for client, text in named_twice(rows).items():
        wrong.setdefault(client, []).append(text)
    shards, missing = _placed(rows, numbered)
    for client, shard in shards.items():
        if len(shard) < min_examples and client not in wrong:
            because = f" ({missing[client]})" if client in missing else ""
            few = f"{len(shard)} training example{'' if len(shard) == 1 else 's'}{because}"
            wrong[client] = [
                f"leaves {few}, at least {min_examples} are needed; name more rows, or lower partition.min_examples"
            ]
    if wrong:
        raise _all_of({client: "; ".join(wrong[client]) for client in rows if client in wrong})
    return shards, missing


def _placed(rows: Mapping[str, Sequence[range]], numbered: RowNumbers) -> tuple[dict[str, list[int]], dict[str, str]]:
    """The places of the rows among the training rows, and a note for each client on rows that are none."""
    place = {number: i for i, number in enumerate(numbered.rows)}
    held_out = {"test": frozenset(numbered.held_out), "validate": frozenset(numbered.validation)}
    shards: dict[str, list[int]] = {}
    missing: dict[str, str] = {}
    for client, ranges in rows.items():
        wanted = list(chain.from_iterable(ranges))
        shards[client] = [place[i] for i in wanted if i in place]
        if len(shards[client]) == len(wanted):
            continue
        reasons = [
            _absent([i for i in wanted if i in held], len(wanted), f"held out to {what} on")
            for what, held in held_out.items()
        ]
        left = [i for i in wanted if i not in place and not any(i in held for held in held_out.values())]
        reasons.append(_absent(left, len(wanted), "left out by data.limit"))
        if any(reasons):
            missing[client] = "; ".join(filter(None, reasons))
    return shards, missing


def _all_of(mistakes: Mapping[str, str]) -> ConfigError:
    """One error of the first few clients with mistakes, each with its key, and the number of the others."""
    errors = [ConfigError(text, key=f"partition.shards.{client}") for client, text in mistakes.items()]
    first, *others = errors
    if left := len(others[SHOWN_CLIENTS - 1 :]):
        more = "shard of another client has a mistake" if left == 1 else f"shards of {left:,} others have mistakes"
        others[SHOWN_CLIENTS - 1 :] = [ConfigError(f"the {more}, too", key="partition.shards")]
    first.others = tuple(others)
    return first


def _absent(rows: Sequence[int], wanted: int, why: str) -> str:
    if not rows:
        return ""
    shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return f"{len(rows)} of the {wanted} rows that it names are {why} ({shown})"
