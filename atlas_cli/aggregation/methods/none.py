"""No aggregation: every client keeps what it trained. The control against which any merging must pay.

Nothing is sent but the adapter that clients start from. The frozen base is not changed, and no moments are reset.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Merge, Update


class Method(BaseMethod):
    """Merges nothing; every client trains alone."""

    SENT = DELIVERED = ()
    GROUP_ADAPTER = False
    UNWEIGHTED = "merges nothing"

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The group's adapter stays what it was at the start; no client gets it."""
        return Merge(dict(current))
