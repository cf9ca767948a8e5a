"""Proof that the split computes what the unsplit model computes.

Loss and every gradient, on real examples with padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from atlas_cli.data.collate import Batch, collate, parts_of
from atlas_cli.experiment.split_check import TOLERANCE, Check, running
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.exchange import exchange, exchange_all, exchange_rows
from atlas_cli.federation.parties.frozen_client import FrozenClient
from atlas_cli.federation.parties.party import Halves, as_inputs
from atlas_cli.federation.parties.shared_client_pass import ClientPass
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.probe import pair
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.frozen.cast import cast_error
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.weight_format import Quantization
from atlas_cli.models.halves.split import blocks_of, run_half
from atlas_cli.planning.plan import ClientPlan
from atlas_cli.seeding import torch_generator
from atlas_cli.tasks.contract import BaseTask, Feature
from atlas_cli.wire.ledger import Ledger


def verify_split(federation: Federation) -> list[Check]:
    """One check per task group, split layer and format, at the ranks of its first client, and one of frozen clients; no
    state changes."""
    checks = []
    gaps = {c.format: cast_error(federation.base, federation.base_of(c.name)) for c in _first(federation.plan.clients)}
    for group, prepared in federation.data.items():
        for client in _first(federation.plan.members(group)):
            batch = collate(prepared.task, _some(prepared.task, prepared.train[client.name]), federation.pad)
            with running(federation.base.family):
                checks.append(_check(federation, group, prepared.task, client, batch, gaps[client.format]))
    return checks


def _first(clients: Sequence[ClientPlan]) -> list[ClientPlan]:
    """The first client of each split layer and format, of those that learn and of those that are frozen."""
    first = {(client.cut, client.format, client.learns == "frozen"): client for client in reversed(clients)}
    return [first[kind] for kind in sorted(first)]


def _some(task: BaseTask, features: Sequence[Feature]) -> list[Feature]:
    """A few features of unequal length, rows whole where their features belong together."""
    if not task.together:
        return spread_by_length(features, 4)
    rows = sorted(parts_of(task, features), key=lambda row: max(len(features[i]["input_ids"]) for i in row))
    return [features[i] for row in (rows[:1] + rows[1:][-1:]) for i in row]


def spread_by_length(features: Sequence[Feature], count: int) -> list[Feature]:
    """The shortest, the longest and examples in between, so that a batch of them has padding."""
    ordered = sorted(features, key=lambda f: len(f["input_ids"]))
    last = len(ordered) - 1
    return [ordered[round(i * last / (count - 1))] for i in range(count)] if last > 0 else ordered


def _check(
    federation: Federation, group: str, task: BaseTask, planned: ClientPlan, batch: Batch, weight_difference: float
) -> Check:
    config, base, device = federation.config, federation.base, federation.device
    own, name = federation.base_of(planned.name), planned.name
    ranks = federation.aggregator.members[name].ranks

    def parties() -> tuple[SplitClient, SplitServer]:
        u_shaped = config.training.labels == "client"
        head = build_head(own, task, config.seed, group, device) if u_shaped else None
        client, server = pair(federation, name, ranks, head, autocast="off")
        for adapters in (client.adapters, server.groups[group].adapters):
            _randomise(adapters, config.seed)
        return client, server

    client, server = parties()
    loss, split = _through_the_split(client, server, batch, packed=False)
    packed = None
    if federation.plan.one_by_one is None and not planned.checkpointing and not client.alone:
        packed = _through_the_split(*parties(), batch, packed=True)
    upper = server.groups[group].adapters
    whole_head = client.head if client.head is not None else server.heads[group]
    wanted = [*client.trained(), *server.groups[group].parameters()]
    whole = Halves(own, base, planned.cut)
    unsplit_loss = _unsplit_loss(whole, task, batch, client.adapters, upper, whole_head, device)
    unsplit = torch.autograd.grad(unsplit_loss, wanted)
    plain = _unsplit_loss(whole, task, batch, AdapterSet({}), AdapterSet({}), whole_head, device)
    size = max(1.0, max(float(g.abs().max()) for g in unsplit))
    n_lower = len(list(client.adapters.parameters()))
    return Check(
        task_group=group,
        split_layer=planned.cut,
        examples=batch.n_examples,
        tokens=batch.n_tokens,
        padding_tokens=batch.input_ids.numel() - batch.n_tokens,
        loss_difference=abs(loss - unsplit_loss.item()),
        gradient_difference=max(_difference(a, b) for a, b in zip(split, unsplit, strict=True)),
        packed_loss_difference=abs(packed[0] - unsplit_loss.item()) / max(1.0, unsplit_loss.item()) if packed else None,
        packed_gradient_difference=max(_difference(a, b) for a, b in zip(packed[1], unsplit, strict=True))
        if packed
        else None,
        gradient_norm=float(nn.utils.get_total_norm(unsplit[:n_lower] or unsplit)),
        adapter_effect=abs(unsplit_loss.item() - plain.item()),
        tolerance=max(TOLERANCE[base.dtype], TOLERANCE[own.dtype]) * size,
        dtype=planned.dtype if own.dtype != base.dtype else None,
        embedding=None if planned.format.embedding == "table" else planned.format.embedding,
        weight_difference=weight_difference,
        quantization=_if_any(own),
        server_quantization=_if_any(base),
        rounding=max(own.rounding, base.rounding),
        frozen=isinstance(client, FrozenClient),
        tried=base.family.by_shape,
    )


def _if_any(base: FrozenBase) -> Quantization | None:
    return None if base.quantization == "none" else base.quantization


def _through_the_split(
    client: SplitClient, server: SplitServer, batch: Batch, packed: bool
) -> tuple[float, list[Tensor | None]]:
    """Loss and gradients of all that is trained: by messages of the padded batch, or as clients share a pass."""
    if isinstance(client, FrozenClient):
        loss = exchange_rows(server, client, batch, client.forward_batch(batch, 0, 0), Ledger())
    elif packed:
        server.real_tokens = True
        together = ClientPass([client])
        up = together.forward([batch], 0, 0)
        if server.training.labels == "server":
            ((down, loss),) = exchange_all(server, [client], [batch], up, Ledger())
        else:
            down, loss = exchange(server, client, batch, up[0], Ledger())
        together.backward([down])
    else:
        down, loss = exchange(server, client, batch, client.forward_batch(batch, 0, 0), Ledger())
        client.backward(down.gradients)
    server.accept()
    (group,) = server.groups.values()
    return loss.mean, [p.grad for p in client.trained()] + group.mean_gradients()


def _unsplit_loss(
    whole: Halves,
    task: BaseTask,
    batch: Batch,
    lower: AdapterSet,
    upper: AdapterSet,
    head: nn.Module,
    device: torch.device,
) -> Tensor:
    """The loss by Hugging Face's own forward over the whole base."""
    inputs, mask = as_inputs(batch.inputs(), device)
    with lower.attached(whole.lower.model), upper.attached(whole.upper.model):
        if whole.lower is whole.upper:
            hidden = run_half(whole.upper.model, mask, **inputs)
        else:
            hidden = _of_two_bases(whole, mask, inputs)
        loss, _ = task.loss(head(hidden, mask), batch.labels.to(device))
    return loss


class _Reached(Exception):
    """Ends a forward at the cut."""


def _of_two_bases(whole: Halves, mask: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """What the whole base gives when its blocks below the cut are the client's, held in another format.

    Two forwards of Hugging Face's own over unsplit models: that of the client's, as far as the cut, and that of the
    base, in which the last block below the cut gives what the client's gave, cast.
    """
    found: list[Tensor] = []

    def reached(_module: nn.Module, _args: object, output: Any) -> None:
        found.append(output if isinstance(output, Tensor) else output[0])
        raise _Reached

    def exchanged(_module: nn.Module, _args: object, output: Any) -> Any:
        below = found[0].to(whole.upper.dtype)
        return below if isinstance(output, Tensor) else (below, *output[1:])

    last = [blocks_of(half.model, half.family)[whole.cut - 1] for half in (whole.lower, whole.upper)]
    with _hooked(last[0], reached), suppress(_Reached):
        run_half(whole.lower.model, mask, **inputs)
    with _hooked(last[1], exchanged):
        return run_half(whole.upper.model, mask, **inputs)


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _randomise(adapters: AdapterSet, seed: int) -> None:
    # B = 0 would hide adapters that are not attached, and give A no gradient
    for path, adapter in adapters.adapters.items():
        noise = torch.randn(adapter.lora_B.shape, generator=torch_generator(seed, "verify", path))
        adapter.lora_B.copy_(0.02 * noise)


def _difference(a: Tensor | None, b: Tensor) -> float:
    gap = float((a - b).abs().max()) if a is not None else math.inf
    return math.inf if math.isnan(gap) else gap
