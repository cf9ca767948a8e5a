"""What codecs cost a step of training: one batch with and without them, from the same state; nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.exchange import exchange, exchange_up
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.probe import pair
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.step_codecs import StepCodecs

Figures = dict[str, float | None]


class CompressedStep(NamedTuple):
    """A step of one client as it would be with its codecs, and without.

    Attributes:
        loss: with them; ``exact_loss``: without.
        gradient: of what the client trains, with them against without; None where no gradient comes back.
        server_gradient: of what the server trains; None where it trains nothing.
    """

    client: str
    loss: float
    exact_loss: float
    gradient: Figures | None
    server_gradient: Figures | None


class _Found(NamedTuple):
    loss: float
    gradient: Tensor
    server_gradient: Tensor


def compressed_steps(federation: Federation, clients: Collection[str], number: int) -> dict[str, CompressedStep]:
    """By task group, the first step of one of ``clients`` in a round: those that have codecs take turns.

    It is computed from what the client and the server hold before the round, codecs with what they keep of texts, and
    without dropout and mechanisms of ``privacy``.
    """
    plans, found = federation.plan.by_name, dict[str, CompressedStep]()
    asked = [client for client in clients if plans[client].wire.by_kind()]
    coded = [client for client in asked if federation.clients[client].wire.codecs]
    for group in federation.group_names:
        of_group = [client for client in coded if federation.group_of(client) == group]
        if not of_group:
            continue
        client = of_group[number % len(of_group)]
        batch = batch_of(federation, client, (number - 1) * federation.config.training.local_steps)
        if batch.features:  # a Poisson sample may be empty
            found[group] = _compare(federation, client, batch, number)
    return found


def _compare(federation: Federation, name: str, batch: Batch, number: int) -> CompressedStep:
    planned, wire = federation.plan.by_name[name], federation.clients[name].wire
    codecs = federation.plan.codecs(planned)
    codecs.load_state_dict(wire.memory.state_dict(numbers=batch.numbers))  # tensors that are never written to
    with_codecs = _step(federation, name, batch, number, codecs)
    exact = _step(federation, name, batch, number, None)
    back = planned.waits and exact.gradient.numel() > 0
    return CompressedStep(
        name,
        with_codecs.loss,
        exact.loss,
        _figures(exact.gradient, with_codecs.gradient) if back else None,
        _figures(exact.server_gradient, with_codecs.server_gradient) if exact.server_gradient.numel() else None,
    )


def _step(federation: Federation, name: str, batch: Batch, number: int, codecs: StepCodecs | None) -> _Found:
    """Loss and gradients of a copy of the client and of its server; codecs None: messages are sent as they are."""
    client, server = _copies(federation, name)
    if codecs is not None:
        client.wire = codecs
    up = client.forward_batch(batch, number, 0)
    if federation.plan.by_name[name].waits:
        down, loss = exchange(server, client, batch, up, Ledger())
        client.backward(client.wire.decode(down).gradients)
    else:
        loss = exchange_up(server, client, batch, up, Ledger())
    server.accept()
    (group,) = server.groups.values()
    return _Found(
        loss.mean,
        _flat(client.trained(), [parameter.grad for parameter in client.trained()]),
        _flat(group.parameters(), group.mean_gradients()),
    )


def _copies(federation: Federation, name: str) -> tuple[SplitClient, SplitServer]:
    party, aggregator = federation.clients[name], federation.aggregator
    client, server = pair(federation, name, aggregator.members[name].ranks, copy.deepcopy(party.head))
    client.adapters.load(party.adapters.state())
    client.adapters.frozen.update(party.adapters.frozen)
    client.train_only(aggregator.parts(name).trained)
    (group,) = server.groups.values()
    group.take_values(federation.server.groups[federation.part_of(name)])
    return client, server


def _flat(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """Gradients as one vector, with zeros where there is none."""
    pairs = zip(parameters, gradients, strict=True)
    parts = [(g if g is not None else torch.zeros_like(p)).detach().float().flatten() for p, g in pairs]
    return torch.cat(parts) if parts else torch.zeros(0)


def _figures(exact: Tensor, other: Tensor) -> Figures:
    return Lost.of(exact, other, float(exact.abs().max())).figures()
