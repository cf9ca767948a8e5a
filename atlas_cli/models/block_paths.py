"""Relates paths of the base to the numbers of its blocks."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_cli.models.families.contract import BaseFamily


def layer_of(path: str, family: BaseFamily) -> int:
    """The number of the block that a path of the base lies in."""
    return int(path.removeprefix(f"{family.blocks}.").split(".", 1)[0])


def by_layer(ranks: Mapping[str, int], family: BaseFamily) -> dict[int, int]:
    """The reverse of ``place_ranks``: ``{layer: rank}``."""
    return {layer_of(path, family): rank for path, rank in ranks.items()}
