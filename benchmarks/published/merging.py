"""Merges of one layer, of adapters that are drawn: what a method makes of them, beside the exact sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import BaseMethod, Context, Factors, Layer, Merge, Update, delta
from atlas_cli.planning.method import load_method
from atlas_cli.seeding import torch_generator

PATH, D_IN, D_OUT = "layer", 40, 24


def made(name: str, **options: Any) -> BaseMethod:
    """A method with these options."""
    kind = load_method(name)
    return kind(kind.Options.model_validate(options))


def drawn(rank: int, *purpose: int | str, of: tuple[str, ...] = ("A", "B")) -> Factors:
    """Normal factors of float64, the same for the same purpose; a part that is not named is shared by all."""
    A, B = (
        torch.randn(shape, dtype=torch.float64, generator=torch_generator(0, part, *(purpose if part in of else ())))
        for part, shape in (("A", (rank, D_IN)), ("B", (D_OUT, rank)))
    )
    return Factors(A, B)


def updates(factors: Sequence[Factors]) -> list[Update]:
    """What clients send that have 1, 2, ... examples."""
    return [Update(str(k), 1.0 + k, {PATH: each}) for k, each in enumerate(factors)]


def exact(sent: Sequence[Update]) -> Tensor:
    """The weighted mean of the products."""
    return sum(u.weight * delta(u.adapters[PATH]) for u in sent) / sum(u.weight for u in sent)  # type: ignore[return-value]


def merged(method: BaseMethod, current: Factors, sent: Sequence[Update], number: int = 1) -> Merge:
    """A merge of these updates alone."""
    weights: dict[int, float] = {}
    for update in sent:
        rank = update.adapters[PATH].rank
        weights[rank] = weights.get(rank, 0.0) + update.weight
    extras = method.extra_tensors({PATH: Layer(current.rank, D_IN, D_OUT)}).up
    with_extras = [
        Update(u.client, u.weight, u.adapters, {name: torch.zeros(shape) for name, shape in extras.items()})
        for u in sent
    ]
    return method.aggregate({PATH: current}, with_extras, Context("g", number, {PATH: weights}, number))


def worth(merge: Merge) -> Tensor:
    """The update that the group has after a merge: its adapter, or the changed base that stands for it."""
    return delta(merge.base[PATH] if merge.base else merge.adapters[PATH])


def missed(found: Tensor, wanted: Tensor) -> float:
    """The relative difference in Frobenius norm."""
    return float((found - wanted).norm() / wanted.norm())


def zeros_like(factors: Factors) -> Factors:
    """An adapter that is worth nothing, with these rows of A."""
    return Factors(factors.A, torch.zeros_like(factors.B))
