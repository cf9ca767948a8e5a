"""A fingerprint of every client's task: its gradient of every lora_B on the shared initial adapter, sketched.

At B = 0 the gradient of B is s (dL/dW) A^T: what the client's data asks of the frozen weights, seen through an A that
is the same for all. Heads are frozen and seeded alike, so that they do not tell clients apart; where numbers of classes
differ, they do. Only layers that all clients hold are used.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from atlas_cli.clustering.sketch import sketch
from atlas_cli.data.collate import batch_indices, collate
from atlas_cli.engines.in_process import exchange
from atlas_cli.errors import ConfigError
from atlas_cli.federation.build import Federation
from atlas_cli.federation.protocol import Ledger, Message
from atlas_cli.federation.trainables import build_head
from atlas_cli.models.placement import layer_of
from atlas_cli.planning.importance import probe

RANK = 8
MIN_EXAMPLES = 2


def fingerprint_round(federation: Federation, ledger: Ledger, batches: int = 2, size: int = 64) -> dict[str, Tensor]:
    """The fingerprint (size,) of every client, from its first batches, through the real split.

    Nothing is stepped, and no party of the federation is touched. What crosses the wire is counted in ``ledger``: the
    steps' activations and gradients, and each client's fingerprint, 4 * size bytes up.

    Raises:
        ConfigError: a client with fewer than two examples, or a federation that is not split.
    """
    return {client: _fingerprint(federation, client, ledger, batches, size) for client in federation.clients}


def _fingerprint(federation: Federation, client: str, ledger: Ledger, batches: int, size: int) -> Tensor:
    group = federation.data[federation.group_of(client)]
    features, seed = group.train[client], federation.config.seed
    if len(features) < MIN_EXAMPLES:
        raise ConfigError(f"client {client} has {len(features)} example; a fingerprint needs {MIN_EXAMPLES} or more")
    party, server = probe(federation, client, RANK)
    head = build_head(federation.base, group.task, seed, "fingerprint", federation.device).requires_grad_(False)
    trained = server.groups[federation.group_of(client)]
    party.head = copy.deepcopy(head) if party.head is not None else None
    trained.head = head if trained.head is not None else None
    lengths = [len(feature["input_ids"]) for feature in features]
    sums: dict[str, Tensor] = {}
    for number in range(batches):
        rows = batch_indices(lengths, federation.batch_size(client), seed, client, number)
        batch = collate(group.task, [features[i] for i in rows], federation.pad)
        reply, _, _ = exchange(server, party, batch, 0, 0, ledger)
        party.backward(reply.tensors["gradients"])
        for path, adapter in party.adapters.adapters.items():
            if layer_of(path, federation.base.family) < federation.plan.cut:
                assert adapter.lora_B.grad is not None
                sums[path] = sums.get(path, torch.zeros_like(adapter.lora_B)) + adapter.lora_B.grad / batches
        for parameter in party.trained():
            parameter.grad = None
    fingerprint = sketch(sums, size, seed)
    if not fingerprint.any():
        raise ConfigError(f"the fingerprint of client {client} is zero: its batches give no gradient")
    ledger.count(Message("fingerprint", client, "up", {"fingerprint": fingerprint}), 4 * size)
    return fingerprint
