"""How rows fit ``training.max_length``: the numbers of rows that are cut or left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.errors import ConfigError
from atlas_cli.tasks.contract import Feature, count_examples


@dataclass(frozen=True)
class Fit:
    """How the rows of one part fit.

    Attributes:
        rows: number of rows.
        cut: examples that lack a part of their row.
        left_out: rows without an example.
    """

    rows: int
    cut: int
    left_out: int

    @classmethod
    def of_rows(cls, encoded: Sequence[Sequence[Feature]]) -> Fit:
        """The fit of rows, from the features of each: ``of`` without looking for the rows that features are of."""
        cut = sum(any(f.get("truncated") for f in features) for features in encoded) if _any_cut(encoded) else 0
        return cls(len(encoded), cut, len(encoded) - sum(map(bool, encoded)))

    @classmethod
    def of(cls, rows: int, features: Sequence[Feature]) -> Fit:
        """The fit of so many rows, from their features."""
        cut = count_examples([feature for feature in features if feature.get("truncated")])
        return cls(rows, cut, rows - count_examples(features))


def _any_cut(encoded: Sequence[Sequence[Feature]]) -> bool:
    return any([True for features in encoded for feature in features if feature.get("truncated")])


def only_whole(
    encoded: list[list[Feature]], refuse: bool, sizes: Mapping[str, int], max_length: int
) -> list[list[Feature]]:
    """Features by row, less those of rows that do not fit.

    Args:
        refuse: raise an error if there are such rows.
        sizes: how many rows each part has, in their order.

    Raises:
        ConfigError: with ``refuse``; says how many rows do not fit.
    """
    whole = [[] if any(feature.get("truncated") for feature in features) else features for features in encoded]
    if refuse and not all(whole):
        rows = iter(whole)
        counts = {part: sum(not next(rows) for _ in range(size)) for part, size in sizes.items()}
        said = " and ".join(f"{gone} of {sizes[part]} {part} rows" for part, gone in counts.items())
        raise ConfigError(
            f"is error, and {said} do not fit training.max_length {max_length}; raise it, or use cut, keep-end or drop",
            key="training.on_truncated",
        )
    return whole


def fit_notes(fits: Mapping[str, Fit], max_length: int, rule: str) -> Iterator[str]:
    """One sentence if rows are cut or left out."""
    parts = [
        f"of {fit.rows:,} {part} rows {fit.left_out:,} left out and {fit.cut:,} cut"
        for part, fit in fits.items()
        if fit.cut or fit.left_out
    ]
    if parts:
        gone = rule != "drop" and any(fit.left_out for fit in fits.values())
        lost = ", as nothing to learn was left of them" if gone else ""
        yield f"max_length {max_length}: {'; '.join(parts)}{lost} (training.on_truncated: {rule})"
