"""The server's work for several clients in one pass over its blocks: one row of real tokens, a head a task group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.federation.numerics import require_finite, require_finite_gradients
from atlas_cli.federation.protocol import Message
from atlas_cli.federation.trainables import StepLoss, Trainables
from atlas_cli.models.load import FrozenBase
from atlas_cli.models.packed import Packing, run_packed
from atlas_cli.models.segments import Segment, attached_segments
from atlas_cli.tasks._base import IGNORE, BaseTask

if TYPE_CHECKING:
    from atlas_cli.federation.server import SplitServer


class Served(NamedTuple):
    """What one client sent, and what the server trains for it.

    ``received``: (B, T, D) in the client's dtype; ``mask``: (B, T); ``labels`` as its task has them.
    """

    trained: Trainables
    task: BaseTask
    received: Tensor
    mask: Tensor
    labels: Tensor


class Gathered(NamedTuple):
    """Gradients of the summed loss over ``labels`` labels with respect to ``trained.parameters()``; None: unused."""

    trained: Trainables
    sums: Sequence[Tensor | None]
    labels: int


def answer_all(server: SplitServer, messages: Sequence[Message]) -> list[tuple[Message, StepLoss]]:
    """As ``server.answer`` and ``accept`` for each message, of clients of one cut and dtype; for pooled updates.

    Raises:
        NonFiniteError: an activation, a loss or a gradient; nothing was gathered.
    """
    received = [server.receive(message) for message in messages]
    served = [
        Served(server.trained_for(message.client), server.task_of(message.client), *arrived, message.tensors["labels"])
        for message, arrived in zip(messages, received, strict=True)
    ]
    losses, counts, at_cut, gathered = _serve(server.base, server.half_for(messages[0].client), served)
    for message, loss, gradient in zip(messages, losses, at_cut, strict=True):
        require_finite(loss, f"loss of {server.when(message.client)}")
        require_finite(gradient, f"gradient for {server.when(message.client)}")
    whose = f"on the server for {', '.join(server.when(message.client) for message in messages)}"
    for each in gathered:
        require_finite_gradients(each.trained.parameters(), each.sums, whose, each.trained.adapters.name_of)
    for each in gathered:
        each.trained.gather_sums(each.sums, each.labels)
    return [
        (Message("gradients", message.client, "down", {"gradients": gradient}), StepLoss(loss.item(), count))
        for message, loss, count, gradient in zip(messages, losses, counts, at_cut, strict=True)
    ]


def _serve(
    base: FrozenBase, half: nn.Module, clients: Sequence[Served]
) -> tuple[list[Tensor], list[int], list[Tensor], list[Gathered]]:
    """Forward, losses and backward for clients of one cut and dtype.

    Returns:
        By client its mean loss (0-d), over how many labels, and that loss' gradient at the cut, (B, T, D), 0 for
        padding; and the gradients of what is trained, by task group.
    """
    packings = [Packing.of(client.mask) for client in clients]
    sizes = [packing.tokens for packing in packings]
    received_ND = torch.cat([p.pack(c.received) for p, c in zip(packings, clients, strict=True)]).requires_grad_()
    runs = groupby(zip(clients, sizes, strict=True), key=lambda pair: id(pair[0].trained))
    neighbours = [list(run) for _, run in runs]
    segments = [Segment(run[0][0].trained.adapters, sum(size for _, size in run)) for run in neighbours]
    lengths = [length for packing in packings for length in packing.lengths]
    positions = torch.cat([packing.positions for packing in packings])
    with attached_segments(base.model, segments):
        hidden_ND = run_packed(base.model, half, lengths, positions, inputs_embeds=received_ND.to(base.dtype))
        parts = zip(clients, packings, hidden_ND.split(sizes), strict=True)
        losses, counts = zip(*(_loss(*part) for part in parts), strict=True)
    trained = list({id(client.trained): client.trained for client in clients}.values())
    wanted = [parameter for each in trained for parameter in each.parameters()]
    total = torch.stack([loss * count for loss, count in zip(losses, counts, strict=True)]).sum()
    at_cut_ND, *found = torch.autograd.grad(total, [received_ND, *wanted], allow_unused=True)
    at_cut = [
        packing.unpack(rows / max(count, 1))  # a loss over no labels is 0, and so is its gradient
        for packing, rows, count in zip(packings, at_cut_ND.split(sizes), counts, strict=True)
    ]
    gathered = []
    for each in trained:
        labels = sum(count for client, count in zip(clients, counts, strict=True) if client.trained is each)
        sums, found = found[: len(each.parameters())], found[len(each.parameters()) :]
        gathered.append(Gathered(each, sums, labels))
    return [loss.detach() for loss in losses], list(counts), at_cut, gathered


def _loss(client: Served, packing: Packing, hidden_ND: Tensor) -> tuple[Tensor, int]:
    """A client's mean loss and its count; a head that reads each token by itself computes those with a label."""
    head = client.trained.head
    assert head is not None
    targets_BT = client.task.targets(client.labels)
    if targets_BT is None:
        return client.task.loss(head(packing.unpack(hidden_ND), client.mask), client.labels)
    targets_N = packing.pack(targets_BT)
    read = (targets_N != IGNORE).nonzero().squeeze(1)
    logits = head(hidden_ND.index_select(0, read).unsqueeze(0), torch.ones_like(read).unsqueeze(0))
    return client.task.loss_at(logits.squeeze(0), targets_N[read])
