"""What was measured and checked, by comparison, with the conditions of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("record.json")


@dataclass(frozen=True)
class Figure:
    """A paired figure.

    Attributes:
        against: what atlas is compared with; ``work``: on what.
        median, q1, q3, n: of the ratios of n turns.
        rates: other figures by name, with their unit in it.
        processor: median, q1, q3 and n of the ratios in seconds of the processor; None where they are not known.
    """

    against: str
    work: str
    median: float
    q1: float
    q3: float
    n: int
    rates: Mapping[str, float]
    processor: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Part:
    """A comparison, or what was checked.

    Attributes:
        conditions: date, commit, versions, processor, threads, load.
        figures: those of a comparison.
        found: what a check found, JSON.
    """

    conditions: Mapping[str, Any]
    figures: Sequence[Figure] = ()
    found: Any = None


Record = dict[str, Part]  # by name of the comparison or check


def read(path: Path = RECORD) -> Record:
    """The record; empty where there is none yet."""
    if not path.exists():
        return {}
    parts = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Part(part["conditions"], [Figure(**each) for each in part["figures"]], part["found"])
        for name, part in parts.items()
    }


def write(record: Record, path: Path = RECORD) -> None:
    """Replace the file."""
    plain = {name: asdict(part) for name, part in record.items()}
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8", newline="\n")
