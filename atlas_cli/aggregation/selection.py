"""What a client trains of its group's adapter where the method ``SELECTS``, and what it runs frozen beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.aggregation.checks import require_selected
from atlas_cli.aggregation.contract import Adapters, BaseMethod, Factors

Components = Mapping[str, Sequence[int]]


def components(
    method: BaseMethod, client: str, merge: int, ranks: Mapping[str, int], merged: Adapters
) -> dict[str, Sequence[int]]:
    """By layer, what a client of these ranks trains for a merge; nothing unless the method ``SELECTS``.

    Args:
        merged: the group's adapter, of which it trains a part.
    """
    found: dict[str, Sequence[int]] = {}
    for path, rank in ranks.items() if method.SELECTS else ():
        own = method.selected(client, merge, path, rank, merged[path])
        found[path] = require_selected(method, own, rank, merged[path].rank)
    return found


def picked(merged: Adapters, selected: Components) -> dict[str, Factors]:
    """These components of each layer that is named."""
    return {path: Factors(merged[path].A[own], merged[path].B[:, own]) for path, own in selected.items()}


def others(merged: Adapters, selected: Components) -> dict[str, Factors]:
    """The other components of each layer that is named, where there are any."""
    left = {path: [j for j in range(merged[path].rank) if j not in own] for path, own in selected.items()}
    return picked(merged, {path: each for path, each in left.items() if each})


def as_run(merged: Adapters, selected: Components, trained: Adapters) -> dict[str, Factors]:
    """What a client runs: what it trained, in its place among all components of each layer that is named."""
    whole = dict(trained)
    for path, own in selected.items():
        A, B = (part.clone() for part in merged[path])
        A[own], B[:, own] = trained[path]
        whole[path] = Factors(A, B)
    return whole
