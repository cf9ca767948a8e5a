"""The figures of a run that have an interval of 95 %: shares of independent cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.statistics import wilson


def interval(row: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """Of a metric in a record of metrics.jsonl; None where it is no share, or the mean over several models."""
    cases, value = (row.get("test_trials") or {}).get(metric), row["test"].get(metric)
    return wilson(value, cases) if cases and value is not None else None


def largest_class(row: Mapping[str, Any], metric: str) -> float | None:
    """The accuracy of saying the largest class of the test part always; None where the record does not tell it."""
    labels = [found["labels"] for found in (row.get("test_by_class") or {}).values()]
    cases = (row.get("test_trials") or {}).get(metric)
    return max(labels) / cases if metric == "accuracy" and cases and sum(labels) == cases else None


def in_words(ends: tuple[float, float] | None) -> str:
    """``0.681 to 0.758``; a dash where there is none."""
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
