"""Ranks from device budgets: ``prefix-greedy``, and the two controls that it must beat.

Layer l of importance I_l is worth u_l(r) = I_l log(1 + r) at rank r. Start every layer at r_min, sort all further
increments by utility gained for a byte of memory, ties by layer, and take the longest prefix that fits every budget.

Utility is concave, so the increments of a layer come in their order. Two choices keep the promises below. The first
increment that does not fit ends the allocation: with skip-and-continue, more memory can lower a rank. And increments
are priced in memory alone, whichever budget binds: a price in shares of the budgets would change the order with them.

- No budget is ever exceeded.
- More of any budget never lowers a rank: the order stays, and the prefix grows.
- Raising I_l never lowers r_l and never raises another layer's rank: what stands before an increment of l can only
  shrink, what stands before another layer's can only grow, and use never falls as ranks rise.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator
from atlas_cli.units import format_bytes_mb, format_bytes_mib

Importance = Mapping[int, float]
Costs = Mapping[int, Mapping[str, float]]
Budgets = Mapping[str, float | None]
Limit = int | Mapping[int, int]

PRICE = "memory"


@dataclass(frozen=True)
class Stop:
    """The increment that ended an allocation: ``layer`` to ``rank`` would use ``needed`` of ``resource``."""

    layer: int
    rank: int
    resource: str
    needed: float


@dataclass(frozen=True)
class Allocation:
    """The rank of each layer, and the use of each resource, including the part that does not depend on ranks.

    ``budgets`` is None where nothing limits; ``stopped_at`` is None where every layer got the largest rank allowed.
    """

    ranks: dict[int, int]
    used: dict[str, float]
    budgets: dict[str, float | None]
    stopped_at: Stop | None


@dataclass(frozen=True)
class RankProblem:
    """An allocation problem: the importance and cost of ranks, and the budgets.

    Attributes:
        importance: I_l >= 0 by layer.
        unit_costs: What one unit of rank costs in a layer, by resource; ``memory`` (bytes) is always among them and
            above 0, ``uplink`` is in bytes a round.
        budgets: What there is of each resource; None or absent: no limit.
        fixed: Use that does not depend on ranks, by resource; absent: 0.
        r_min: Rank that every layer gets.
        r_max: Largest rank, of all layers or by layer.
        client: Name of the client, for errors.
        key: Where the config speaks of its rank, for errors.

    Raises:
        ValueError: importance or costs that are negative or not finite, or r_max below r_min.
    """

    importance: Importance
    unit_costs: Costs
    budgets: Budgets
    fixed: Mapping[str, float]
    r_min: int
    r_max: Limit
    client: str = ""
    key: str = "rank"

    def __post_init__(self) -> None:
        if self.r_min < 1 or not self.importance:
            raise ValueError("ranks start at 1, and there must be a layer to give one")
        for layer in self.layers:
            value, costs = self.importance[layer], self.unit_costs[layer]
            if not 0 <= value < math.inf:
                raise ValueError(f"importance of layer {layer} is {value}; it must be finite and at least 0")
            if not costs[PRICE] > 0 or not all(0 <= cost < math.inf for cost in costs.values()):
                raise ValueError(f"costs of layer {layer} must be finite and at least 0, and memory above 0")
            if self.most[layer] < self.r_min:
                raise ValueError(f"layer {layer} takes ranks up to {self.most[layer]}, and r_min is {self.r_min}")

    @property
    def layers(self) -> list[int]:
        """The layers in order."""
        return sorted(self.importance)

    @property
    def most(self) -> Mapping[int, int]:
        """The largest rank of each layer."""
        return self.r_max if isinstance(self.r_max, Mapping) else dict.fromkeys(self.layers, self.r_max)

    def used(self, ranks: Mapping[int, int]) -> dict[str, float]:
        """The use of each resource at given ranks."""
        # summed anew in the order of layers: rounding then never makes use fall as a rank rises
        return {
            resource: self.fixed.get(resource, 0)
            + sum(rank * self.unit_costs[layer].get(resource, 0) for layer, rank in ranks.items())
            for resource in dict.fromkeys([PRICE, *self.budgets, *self.fixed])
        }

    def exceeded(self, used: Mapping[str, float]) -> str | None:
        """The first resource whose budget is exceeded."""
        return next((r for r, budget in self.budgets.items() if budget is not None and used[r] > budget), None)


def allocate(problem: RankProblem) -> Allocation:
    """Prefix-greedy ranks.

    Raises:
        ConfigError: r_min does not fit; names the resource, what is needed and what is there.
    """
    most, costs = problem.most, problem.unit_costs
    increments = [
        (-problem.importance[layer] * math.log1p(1 / rank) / costs[layer][PRICE], layer, rank)
        for layer in problem.layers
        for rank in range(problem.r_min + 1, most[layer] + 1)
    ]
    start = dict.fromkeys(problem.layers, problem.r_min)
    return _longest_prefix([start, *({layer: rank} for _, layer, rank in sorted(increments))], problem)


def allocate_uniform(problem: RankProblem) -> Allocation:
    """Control: the largest rank that fits when all layers have the same; importance only names the layers."""
    ranks = range(problem.r_min, min(problem.most.values()) + 1)
    return _longest_prefix([dict.fromkeys(problem.layers, rank) for rank in ranks], problem)


def allocate_random(problem: RankProblem, seed: int = 0) -> Allocation:
    """Control: prefix-greedy on importance drawn from Exp(1): the same budgets are spent, in places of no meaning."""
    layers = problem.layers
    drawn = numpy_generator(seed, "random ranks", problem.client).exponential(size=len(layers))
    return allocate(replace(problem, importance=dict(zip(layers, drawn.tolist(), strict=True))))


def _longest_prefix(steps: Sequence[Mapping[int, int]], problem: RankProblem) -> Allocation:
    """The ranks after the longest prefix of steps that fits; each step sets ranks, the first those of all layers."""

    def after(count: int) -> tuple[dict[int, int], dict[str, float]]:
        ranks: dict[int, int] = {}
        for step in steps[:count]:
            ranks.update(step)
        return ranks, problem.used(ranks)

    def exceeds(count: int) -> bool:
        return problem.exceeded(after(count)[1]) is not None

    # use never falls from one prefix to the next, so a bisection finds the first that does not fit
    fits = bisect_left(range(1, len(steps) + 1), True, key=exceeds)
    if fits == 0:
        raise _too_small(steps[0], after(1)[1], problem)
    ranks, used = after(fits)
    stop = None
    if fits < len(steps):
        more = after(fits + 1)[1]
        resource = problem.exceeded(more)
        assert resource is not None
        layer, rank = next(iter(steps[fits].items()))
        stop = Stop(layer, rank, resource, more[resource])
    return Allocation(ranks, used, {resource: problem.budgets.get(resource) for resource in used}, stop)


def _too_small(least: Mapping[int, int], used: Mapping[str, float], problem: RankProblem) -> ConfigError:
    resource = problem.exceeded(used)
    assert resource is not None
    needed, has = math.ceil(used[resource]), math.floor(problem.budgets[resource] or 0)
    shown = format_bytes_mib if resource == PRICE else format_bytes_mb
    advice = {
        PRICE: "lower training.batch_size, training.max_length or model.split_layer, use a device with more memory",
        "uplink": "raise allocation.uplink_seconds or lower model.split_layer",
    }.get(resource, f"give it more {resource}")
    return ConfigError(
        f"{f'client {problem.client}' if problem.client else 'the client'} needs {shown(needed)} of {resource} with "
        f"rank {min(least.values())} in every layer and has {shown(has)}, {shown(needed - has)} too little; {advice}",
        key=problem.key,
    )
