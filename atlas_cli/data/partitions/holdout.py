"""Held-out test parts and samples: which rows, by seeded draws."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def sample(rows: Sequence[T], limit: int | None, rng: np.random.Generator) -> list[T]:
    """At most ``limit`` rows, drawn without replacement, in their old order; all rows when ``limit`` is None."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(rng.choice(len(rows), size=limit, replace=False).tolist())]


def by_label(labels: Sequence[str], fraction: float, rng: np.random.Generator) -> list[int]:
    """Sorted test rows, the same share of every label as nearly as whole rows allow; each label keeps a training row.

    Args:
        labels: of every row; one constant label for rows without labels.
        fraction: share of all rows to hold out, at least one row where a label has two.
        rng: generator of this draw.
    """
    rows: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    wanted = {label: len(rows[label]) * fraction for label in sorted(rows)}
    take = {label: min(int(wanted[label]), len(rows[label]) - 1) for label in wanted}
    left = max(1, round(len(labels) * fraction)) - sum(take.values())
    # whole rows first, then those left over go to the labels that came off worst
    for label in sorted(wanted, key=lambda label: take[label] - wanted[label]):
        if left > 0 and take[label] < len(rows[label]) - 1:
            take[label] += 1
            left -= 1
    return sorted(int(i) for label in wanted for i in rng.permutation(rows[label])[: take[label]])


def by_document(documents: Sequence[Hashable], fraction: float, rng: np.random.Generator) -> list[int]:
    """Sorted test rows: whole documents in random order until ``fraction`` of all rows is reached; one always stays.

    Args:
        documents: of every row, in the order of the rows; rows of one document need not be neighbours.
        fraction: share of all rows to hold out.
        rng: generator of this draw.
    """
    rows: dict[Hashable, list[int]] = {}
    for i, document in enumerate(documents):
        rows.setdefault(document, []).append(i)
    names = list(rows)
    test: list[int] = []
    for j in rng.permutation(len(names))[:-1]:
        if len(test) >= fraction * len(documents):
            break
        test += rows[names[j]]
    return sorted(test)
