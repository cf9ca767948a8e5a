"""No aggregation: every client keeps what it trained. The control against which any merging must pay.

Nothing is sent but the adapter that clients start from. The frozen base is not changed, and no moments are reset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.aggregation.contract import Adapters, Context, Factors, Merge, Update, truncated
from atlas_cli.config.schema.section import Section

SENT: tuple[str, ...] = ()
DELIVERED: tuple[str, ...] = ()
TRAINED = ("A", "B")
GROUP_ADAPTER = False
CHANGES_BASE = False


class Options(Section):
    """None."""


def aggregate(current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
    """The group's adapter stays what it was at the start; no client gets it."""
    return Merge(dict(current))


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """What the group starts from, once before the first round; nothing is delivered after it."""
    return truncated(merged, ranks)
