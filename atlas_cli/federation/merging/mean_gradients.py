"""The server's part of ``training.drift: {name: scaffold}``: means of what clients sent of their first local step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas_cli.aggregation.low_rank import precise
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Adapters, FirstGradients, MeanGradients

Sent = Mapping[str, Mapping[str, Tensor]]  # by client


def share_first_gradients(aggregator: Aggregator, first: Sent, ledger: Ledger) -> dict[str, dict[str, Tensor]]:
    """Receive the gradients of clients, and send each the mean of its group at its ranks.

    Args:
        first: by client, gradients named as adapters.
    """
    members, features = aggregator.members, aggregator.features
    sizes = {c: Adapters.closed_form(members[c].ranks, features, aggregator.parts(c).trained) for c in first}
    for client, tensors in first.items():
        ledger.count(FirstGradients(client, tensors, compact=members[client].compact), sizes[client])
    means: dict[str, dict[str, Tensor]] = {}
    for group in dict.fromkeys(members[client].group for client in first):
        means |= _means(aggregator, {c: tensors for c, tensors in first.items() if members[c].group == group})
    for client, tensors in means.items():
        ledger.count(MeanGradients(client, tensors, compact=members[client].compact), sizes[client])
    return means


def _means(aggregator: Aggregator, sent: Sent) -> dict[str, dict[str, Tensor]]:
    """By component the mean over the clients that have it, by weight; at each client's ranks."""
    equal, found = aggregator.method.EQUAL_CLIENTS, {client: dict[str, Tensor]() for client in sent}
    for name in dict.fromkeys(name for tensors in sent.values() for name in tensors):
        held = {client: tensors[name] for client, tensors in sent.items() if name in tensors}
        along = 0 if name.endswith("lora_A") else 1
        largest = max(held.values(), key=lambda tensor: tensor.shape[along])
        weights = {client: 1.0 if equal else aggregator.members[client].weight for client in held}
        total = precise(largest).new_zeros(largest.shape[along])
        for client, tensor in held.items():
            total[: tensor.shape[along]] += weights[client]
        mean = torch.zeros_like(precise(largest))
        for client, tensor in held.items():
            r = tensor.shape[along]
            share = (weights[client] / total[:r]).unsqueeze(1 - along)
            mean.narrow(along, 0, r).add_(share * precise(tensor))
        for client, tensor in held.items():
            found[client][name] = mean.narrow(along, 0, tensor.shape[along]).to(tensor).contiguous()
    return found
