"""The Python interface to one round: clients and a server that the caller built, on batches that the caller has."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atlas_cli import discovery
from atlas_cli.errors import ConfigError
from atlas_cli.federation.aggregator import Aggregator
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.members import Member
from atlas_cli.federation.protocol import Direction, Ledger, Message
from atlas_cli.federation.server import SplitServer
from atlas_cli.models.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.placement import layer_of

Batch = Mapping[str, Tensor]


def create_message(
    client_id: int | str, kind: str, tensors: Mapping[str, Tensor], direction: Direction = "up"
) -> Message:
    """A message with tensors detached; ``message.bytes`` is its size as serialised."""
    return Message(kind, str(client_id), direction, {name: t.detach() for name, t in tensors.items()})


def federated_training_round(
    clients: Sequence[SplitClient],
    server: SplitServer,
    train_data: Mapping[int | str, Batch],
    task_groups: Mapping[int | str, Sequence[int | str]],
    aggregation: str = "delta-svd",
) -> dict[str, object]:
    """One round: every client takes one step through the split, then each group's adapters are merged and delivered.

    Args:
        clients: all with the server's model and split layer.
        server: with a task group for each key of ``task_groups``.
        train_data: by client: ``input_ids`` and ``attention_mask``, or ``inputs`` (B, D) or (B, T, D) floats; and
            ``labels`` as the task has them, drawn at random where absent, as for a smoke test.
        task_groups: clients of each task.
        aggregation: a method name; "none" keeps adapters apart.

    Returns:
        ``avg_loss`` (mean over clients), ``losses`` by client, ``group_losses``, ``bytes_up`` and ``bytes_down``.

    Raises:
        ConfigError: a client without data or group, a group that the server does not have, or halves that do not fit.
    """
    if server.training.labels == "client":
        raise ConfigError("this round keeps labels on the server; for labels: client use build and train")
    groups = {str(c): str(g) for g, members in task_groups.items() for c in members}
    data = {str(c): batch for c, batch in train_data.items()}
    for client in clients:
        if groups.get(client.name) not in server.groups or client.name not in data:
            raise ConfigError(f"client {client.name} needs data and a task group of the server: {list(server.groups)}")
        if client.cut < server.cut or client.base.sha256 != server.base.sha256:
            raise ConfigError(
                f"client {client.name} and the server do not hold one model between them; give both the same "
                "model_name, init and seed, and the client at least the server's split_layer"
            )
    ledger = Ledger()
    aggregator = _aggregator(clients, server, groups, data, aggregation)
    losses: dict[str, float] = {}
    server.begin_round({c.name: groups[c.name] for c in clients}, 1, {c.name: c.cut for c in clients})
    server.begin_step(0, server.training.server_optimizer.lr)
    for client in clients:
        batch = data[client.name]
        message = client.forward(batch, 1, 0, _labels(server, groups[client.name], batch, client.name))
        ledger.count(message, message.payload_bytes)
        reply, loss = server.answer(message)
        ledger.count(reply, reply.payload_bytes)
        client.apply_gradients(reply.tensors["gradients"])
        losses[client.name] = loss.mean
    server.finish_step()
    server.finish_round()
    for group in dict.fromkeys(groups.values()):
        aggregator.merge(group, [c.name for c in clients if groups[c.name] == group], ledger, 1)
    for client in clients if aggregator.exchanges else ():
        client.forget_moments(aggregator.deliver(client.name, ledger))
    by_group = {g: [losses[c] for c in losses if groups[c] == g] for g in dict.fromkeys(groups.values())}
    return {
        "avg_loss": sum(losses.values()) / len(losses),
        "losses": losses,
        "group_losses": {g: sum(each) / len(each) for g, each in by_group.items()},
        "bytes_up": ledger.total("up", losses),
        "bytes_down": ledger.total("down", losses),
    }


def _aggregator(
    clients: Sequence[SplitClient],
    server: SplitServer,
    groups: Mapping[str, str],
    data: Mapping[str, Batch],
    method: str,
) -> Aggregator:
    merged = {g: _largest([c for c in clients if groups[c.name] == g]) for g in dict.fromkeys(groups.values())}
    members = {}
    for client in clients:
        group, examples = groups[client.name], len(next(iter(data[client.name].values())))
        upper = [p for p in server.groups[group].adapters.adapters if layer_of(p, client.base.family) >= client.cut]
        served = frozenset(path for path in upper if path in merged[group].adapters)
        members[client.name] = Member(group, float(examples), client.adapters, None, served)
    return Aggregator(discovery.load("aggregation", method), members, merged, {}, clients[0].base.model, server.groups)


def _largest(clients: Sequence[SplitClient]) -> AdapterSet:
    """Room for a group's merged adapter, at the largest rank of its clients; its values are those of a first merge."""
    largest: dict[str, LoRAAdapter] = {}
    for client in clients:
        for path, adapter in client.adapters.adapters.items():
            if path not in largest or adapter.rank > largest[path].rank:
                largest[path] = adapter
    return AdapterSet(copy.deepcopy(largest))


def _labels(server: SplitServer, group: str, batch: Batch, client: str) -> Tensor:
    if "labels" in batch:
        return batch["labels"]
    size = len(next(iter(batch.values())))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, len(server.tasks[group].classes), (size,), generator=generator)
