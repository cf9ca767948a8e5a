"""Gives the records of each round to a function of the caller's, flat as tables take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from atlas_cli.reports.progress import Progress

Records = list[dict[str, Any]]
OnRound = Callable[[Records], None]

_FLAT = ("test", "validation", "local_test", "epsilon")


def flat(records: Sequence[Mapping[str, Any]]) -> Records:
    """Records without nesting: figures of parts and epsilons by name (``test_accuracy``); else what nests is left out.

    An epsilon without a bound is infinite.
    """
    nested = {name for record in records for name, value in record.items() if isinstance(value, Mapping | list)}
    return [_flat(record, nested) for record in records]


def _flat(record: Mapping[str, Any], nested: Collection[str]) -> dict[str, Any]:
    found = {name: value for name, value in record.items() if name not in nested}
    for name in _FLAT:
        for inner, value in (record.get(name) or {}).items():
            found[f"{name}_{inner}"] = math.inf if value == "infinite" else value
    return found


def calling(shown: Progress, on_round: OnRound) -> Progress:
    """A display that also gives the records of each round, once it is kept, to a function."""
    return _Calling(shown, on_round)


class _Calling(Progress):
    def __init__(self, shown: Progress, on_round: OnRound) -> None:
        self.shown, self.on_round = shown, on_round
        self.rows: Sequence[Mapping[str, Any]] = ()

    def doing(self, what: str, done: int = 0, of: int | None = None) -> None:
        self.shown.doing(what, done, of)

    def keep(self, log: Callable[[str], None]) -> None:
        self.shown.keep(log)

    def start(self, total_rounds: int, local_steps: int, groups: Sequence[str]) -> None:
        self.shown.start(total_rounds, local_steps, groups)

    def step(self, round: int, step: int, losses: Mapping[str, float], examples: int) -> None:
        self.shown.step(round, step, losses, examples)

    def round_end(self, round: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.shown.round_end(round, rows)
        self.rows = rows

    def kept(self, round: int) -> None:
        self.shown.kept(round)
        self.on_round(flat(self.rows))

    def note(self, text: str) -> None:
        self.shown.note(text)

    def stop(self) -> None:
        self.shown.stop()
