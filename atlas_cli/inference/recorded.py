"""What a run recorded of a trained model: figures to hold an evaluation against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_cli.inference.adapter_folders import Owner
from atlas_cli.runs.directory import RunDirectory

RELATIVE, ABSOLUTE = 1e-4, 1e-6  # another order of sums in float32 changes less
Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Figures beside those of another source.

    Attributes:
        source: in words, e.g. ``round 8 in metrics.jsonl``.
        largest: the largest difference of a figure, as a share of it; ``figure``: which.
        equal: whether all differ by no more than rounding.
    """

    source: str
    largest: float
    figure: str
    equal: bool

    def sentence(self) -> str:
        """``equal to round 8 in metrics.jsonl (largest relative difference 3e-08)``."""
        how = f"largest relative difference {self.largest:.1g}" if self.largest else "to the last digit"
        if self.equal:
            return f"equal to {self.source} ({how})"
        return f"warning: not equal to {self.source}: {self.figure} differs most, by {100 * self.largest:.2g} %"


def compare(found: Figures, other: Figures, source: str) -> Comparison:
    """Compare the figures that both have."""
    figure, largest, equal = "", 0.0, True
    for name, value in found.items():
        known = other.get(name)
        if value is None or known is None:
            equal = equal and (name not in other or value is known)
            continue
        difference = abs(value - known) / max(abs(known), ABSOLUTE)
        equal = equal and math.isclose(value, known, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        if difference > largest:
            figure, largest = name, difference
    return Comparison(source, largest, figure, equal)


def recorded(
    run: RunDirectory, owner: Owner, part: str, number: int, *, alone: bool = False
) -> tuple[str, Figures] | None:
    """Where a run recorded figures of a model on a part of its data, and these; None where it did not.

    The figures of a group are recorded where its clients share a model, those of a client on its local part.

    Args:
        alone: the client has all data of its group.
    """
    if part == "local":
        rows = run.read_lines("clients.jsonl") if owner.client is not None else []
        found = next((r["local_test"] for r in rows if (r["round"], r["client"]) == (number, owner.client)), None)
        return None if not found else (f"round {number} in clients.jsonl", found)
    if not alone and (owner.client is not None or owner.name != owner.group):
        return None
    for row in run.read_lines("metrics.jsonl"):
        if (row["round"], row["task_group"]) == (number, owner.group) and row.get("models", 1) == 1 and row.get(part):
            return f"round {number} in metrics.jsonl", row[part]
    return None
