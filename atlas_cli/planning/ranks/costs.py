"""The cost of a unit of rank for a client by layer, and its cost independent of ranks.

A unit of rank of one adapter is d_in + d_out numbers in float32. In memory they are there as parameter, gradient and
moments of the optimizer, and the output of A is saved for backward, a number a token; up go the parameters, once a
round. All targets of a block share their rank, so a layer's unit is the sum over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atlas_cli.planning.memory.party_memory import PartyMemory

ELEMENT = 4

Targets = Mapping[int, Mapping[str, tuple[int, int]]]
ByPath = Mapping[str, int]


@dataclass(frozen=True)
class RankCosts:
    """Costs for ``planning.ranks.rules.allocate``: bytes of ``memory``, and of ``uplink`` for each round."""

    unit_costs: dict[int, dict[str, float]]
    fixed: dict[str, float]
    r_max: dict[int, int]


def rank_costs(
    memory: Callable[[ByPath], PartyMemory],
    uplink: Callable[[ByPath], int],
    targets: Targets,
    positions: int,
    r_min: int,
    r_max: int,
) -> RankCosts:
    """Compute the costs of a client.

    Args:
        memory: predicts its memory at given ranks, by path in the base.
        uplink: computes the bytes that it sends in a round at given ranks.
        targets: (d_in, d_out) of the adapted layers, by block and path.
        positions: the tokens of a batch, padding included.
        r_max: the largest rank; a block with smaller layers is limited by them.

    Memory of a unit is the closed form, and what does not depend on ranks is the predicted peak at ``r_min`` less it.
    What is alive besides is taken at the largest ranks. Should the rest rise by more than the closed form says, that is
    scaled up.
    """
    most = {layer: min(r_max, *(min(f) for f in paths.values())) for layer, paths in targets.items()}
    least = dict.fromkeys(targets, r_min)
    numbers = {layer: sum(d_in + d_out for d_in, d_out in f.values()) for layer, f in targets.items()}
    lowest = memory(by_path(least, targets))
    copies = 2 + lowest.optimizer // lowest.gradients
    units: dict[int, dict[str, float]] = {
        layer: {
            "memory": ELEMENT * (copies * numbers[layer] + positions * len(targets[layer])),
            "uplink": ELEMENT * numbers[layer],
        }
        for layer in targets
    }
    highest = memory(by_path(most, targets))
    transient = max(0, highest.transient - lowest.transient)
    if most != least:
        rise = (highest.peak - highest.transient) - (lowest.peak - lowest.transient)
        closed = sum((most[layer] - r_min) * units[layer]["memory"] for layer in targets)
        for unit in units.values():
            unit["memory"] *= max(1.0, rise / closed)
    # headers of messages grow with the digits in them, so those at the largest ranks bound all
    sent = uplink(by_path(most, targets))
    if sent == uplink(by_path(least, targets)):  # nothing is aggregated, so no adapter is sent
        for unit in units.values():
            unit["uplink"] = 0
    fixed = {
        "memory": lowest.peak + transient - sum(r_min * units[layer]["memory"] for layer in targets),
        "uplink": sent - sum(most[layer] * units[layer]["uplink"] for layer in targets),
    }
    return RankCosts(units, fixed, most)


def by_path(ranks: Mapping[int, int], targets: Targets) -> dict[str, int]:
    """Convert ranks by block to ranks by path."""
    return {path: ranks[layer] for layer, paths in targets.items() for path in paths}
