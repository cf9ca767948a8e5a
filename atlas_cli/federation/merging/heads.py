"""The merge of heads that clients train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.aggregation import checks
from atlas_cli.aggregation.contract import BaseMethod
from atlas_cli.aggregation.merge_optimizer import MergeOptimizer
from atlas_cli.double import double

Head = Mapping[str, Tensor]  # ``head.<parameter>``; empty where the server has it


class LateHead(NamedTuple):
    """What the head of a late client began with, and the factor of its change."""

    began: Head
    factor: float


@torch.no_grad()
def merge_head(
    method: BaseMethod,
    optimizer: MergeOptimizer | None,
    part: str,
    head: Iterable[tuple[str, nn.Parameter]],
    weights: Mapping[str, float],
    sent: Mapping[str, Head],
    late: Mapping[str, LateHead],
) -> None:
    """Merge the heads of some clients, as the method merges values.

    Args:
        optimizer: by which rule heads move, or None.
        part: whose head it is.
        head: the trained parameters that they share, which become the merged ones.
        weights: of these clients.
        sent: by client, its head as sent.
        late: clients that began with another head; where there are any, changes are added up.
    """
    if optimizer is not None:
        weights = {client: optimizer.per_step(client, weight) for client, weight in weights.items()}
    total = sum(weights.values())
    shares = [weight / total for weight in weights.values()]
    for name, parameter in head:
        values = {client: sent[client][f"head.{name}"] for client in weights}
        if late:
            merged = _with_late(f"head.{name}", parameter, values, shares, late)
        else:
            merged = method.merge_values(list(values.values()), shares)
        merged = checks.require_merged_head(method, merged, parameter)
        parameter.copy_(merged if optimizer is None else optimizer.step_head(part, name, parameter, merged, weights))


def _with_late(
    name: str, current: Tensor, values: Mapping[str, Tensor], shares: Iterable[float], late: Mapping[str, LateHead]
) -> Tensor:
    """``current`` + sum_k w_k f_k (what client k sent - what it began with) of one parameter."""
    total = double(current)
    for (client, value), share in zip(values.items(), shares, strict=True):
        began, factor = (late[client].began[name], late[client].factor) if client in late else (current, 1.0)
        total = total + share * factor * (double(value) - double(began)).to(total.device)
    return total.to(current)
