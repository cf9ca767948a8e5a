"""Finds test texts of one task group that are training texts of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.data.rows import GroupData, identity

_ANSWERS = ("label", "tags", "answers", "response")


def overlap_notes(groups: Mapping[str, GroupData]) -> dict[str, list[str]]:
    """One sentence for each pair of groups where training texts of one are test texts of the other.

    Such texts matter where something learned in one group reaches the other. They are the rule for groups that read the
    same file, as each holds out rows of its own.
    """
    trained = {name: {_text(row, data) for row in data.train} for name, data in groups.items()}
    notes: dict[str, list[str]] = {name: [] for name in groups}
    for name, data in groups.items():
        tested = [_text(row, data) for row in data.test]
        for other in groups:
            count = sum(text in trained[other] for text in tested) if other != name else 0
            if count:
                notes[name].append(
                    f"{count:,} of {len(tested):,} test texts are training texts of task group {other}, whose adapters"
                    " are merged with this one's; give both groups the same test part (test_files)"
                )
    return notes


def _text(row: Mapping[str, Any], data: GroupData) -> str:
    return identity(row, [field for field in data.columns if field not in _ANSWERS])
