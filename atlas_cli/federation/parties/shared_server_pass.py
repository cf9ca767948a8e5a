"""The server's work for several clients in one pass over its blocks: one row of real tokens, a head a task group."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.federation.parties.trainables import GradientSums, Trainables
from atlas_cli.models.adapters.per_client_rows import Segment, attached_segments
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses, PassRows
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.last_block import run_last_block
from atlas_cli.models.halves.real_tokens import Packing
from atlas_cli.tasks.contract import IGNORE, BaseTask


class ClientRequest(NamedTuple):
    """One client's activations and labels, and what the server trains for it.

    ``received``: (B, T, D) in the client's dtype; ``mask``: (B, T); ``labels`` as its task has them.
    """

    trained: Trainables
    task: BaseTask
    received: Tensor
    mask: Tensor
    labels: Tensor


class PassResult(NamedTuple):
    """The result of one pass.

    Attributes:
        losses: by client, its mean loss (0-d); ``counts``: the labels that it averages.
        at_cut: by client, the gradient of that loss at the cut, (B, T, D), 0 for padding.
        gathered: by task group, the gradients of what is trained.
    """

    losses: Sequence[Tensor]
    counts: Sequence[int]
    at_cut: Sequence[Tensor]
    gathered: Sequence[GradientSums]


def serve(
    base: FrozenBase, cut: int, clients: Sequence[ClientRequest], graphs: GraphedPasses | None = None
) -> PassResult:
    """Forward, losses and backward for clients of one cut and dtype; ``graphs`` replay the blocks where they can."""
    packings = [Packing.of(client.mask) for client in clients]
    sizes = [packing.tokens for packing in packings]
    received_ND = torch.cat([p.pack(c.received) for p, c in zip(packings, clients, strict=True)]).requires_grad_()
    reads = [_reads(client, packing) for client, packing in zip(clients, packings, strict=True)]
    hidden_SD = _hidden(base, cut, clients, packings, reads, received_ND.to(base.dtype), graphs)
    parts = hidden_SD.split([len(read) for read in reads])
    losses, counts = zip(*(_loss(*each) for each in zip(clients, packings, parts, strict=True)), strict=True)
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
        gathered.append(GradientSums(each, sums, labels))
    return PassResult([loss.detach() for loss in losses], counts, at_cut, gathered)


def _reads(client: ClientRequest, packing: Packing) -> Tensor:
    """Which of a client's tokens its head reads: ascending places in its part of the row, (S,) int64."""
    read_BT = client.task.reads(client.labels, client.mask)
    if read_BT is None:
        return torch.arange(packing.tokens, device=packing.places.device)
    return packing.pack(read_BT).nonzero().squeeze(1)


def _hidden(
    base: FrozenBase,
    cut: int,
    clients: Sequence[ClientRequest],
    packings: Sequence[Packing],
    reads: Sequence[Tensor],
    rows_ND: Tensor,
    graphs: GraphedPasses | None,
) -> Tensor:
    """(S, D): the last hidden states of the tokens that are read."""
    lengths = [length for packing in packings for length in packing.lengths]
    positions = torch.cat([packing.positions for packing in packings])
    starts = accumulate((packing.tokens for packing in packings), initial=0)
    read = torch.cat([start + places for start, places in zip(starts, reads, strict=False)])

    def segments(only_read: bool) -> list[Segment]:
        sizes = [len(places) if only_read else packing.tokens for places, packing in zip(reads, packings, strict=True)]
        runs = groupby(zip(clients, sizes, strict=True), key=lambda pair: id(pair[0].trained))
        neighbours = [list(run) for _, run in runs]
        return [Segment(run[0][0].trained.adapters, sum(size for _, size in run)) for run in neighbours]

    def attached(only_read: bool) -> AbstractContextManager[None]:
        return attached_segments(base.model, segments(only_read))

    def through(half: nn.Module) -> PassRows:
        return PassRows(base, half, segments(False), lengths, positions, {"inputs_embeds": rows_ND})

    last = base.n_layers - 1
    if graphs is not None and (found := graphs.replay(through(base.server_half(cut)))) is not None:
        return found.index_select(0, read)
    if cut > last or 2 * len(read) > len(rows_ND):
        return through(base.server_half(cut)).compute().index_select(0, read)
    below = through(base.between(cut, last)).compute() if cut < last else rows_ND
    return run_last_block(base.server_half(last), lengths, positions, read, below, attached)


def _loss(client: ClientRequest, packing: Packing, hidden_SD: Tensor) -> tuple[Tensor, int]:
    """A client's mean loss and its count, from the tokens that its head reads."""
    head = client.trained.logits
    if (targets_BT := client.task.targets(client.labels)) is not None:
        logits = head(hidden_SD.unsqueeze(0), hidden_SD.new_ones(1, len(hidden_SD)))
        return client.task.loss_at(logits.squeeze(0), targets_BT[targets_BT != IGNORE])
    if len(hidden_SD) == packing.tokens:
        return client.task.loss(head(packing.unpack(hidden_SD), client.mask), client.labels)
    # one token of each sequence: whatever pools it gives it back
    return client.task.loss(head(hidden_SD.unsqueeze(1), torch.ones_like(client.mask[:, :1])), client.labels)
