"""Texts that one task group is tested on and another one learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.data.rows import GroupData, identity

_ANSWERS = ("label", "tags", "answers", "response")


def overlap_notes(groups: Mapping[str, GroupData]) -> dict[str, list[str]]:
    """A sentence for each group and each other one whose training texts are among its test texts.

    It matters where something learned in one group reaches another. Groups that read one file hold out rows of their
    own, so that this is the rule with them.
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
