"""The Python interface to one round: clients and a server that the caller built, on batches that the caller has."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from atlas_cli.aggregation.client_gradients import factors_of
from atlas_cli.aggregation.contract import PARTS, release, scales_of, truncated
from atlas_cli.errors import ConfigError
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.models.adapters.lora import LORA, AdapterSet, LoRAAdapter, features_of
from atlas_cli.models.block_paths import layer_of
from atlas_cli.planning.method import load_method
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import TYPES, Direction, Message

Batch = Mapping[str, Tensor]


def create_message(
    client_id: int | str, kind: str, tensors: Mapping[str, Tensor], direction: Direction = "up"
) -> Message:
    """A message with tensors detached; ``message.bytes`` is its size as serialised.

    Args:
        kind, tensors: as in the table of ``atlas_cli.wire.messages``, such as ``"activations"``.

    Raises:
        ConfigError: no such message, or tensors that it does not have.

    Example:
        >>> message = create_message("phone-1", "activations", {"activations": torch.zeros(1, 4, 768)})
        >>> message.payload_bytes, message.bytes > message.payload_bytes
        (12288, True)
    """
    if (kind, direction) not in TYPES:
        known = ", ".join(f"{kind} {way}" for kind, way in sorted(TYPES))
        raise ConfigError(f"no message is of kind {kind!r} {direction}; there are: {known}")
    try:
        return TYPES[kind, direction].of(str(client_id), {name: t.detach() for name, t in tensors.items()})
    except TypeError as error:
        raise ConfigError(f"these are not the tensors of a message of kind {kind!r}: {error}") from None


def federated_training_round(
    clients: Sequence[SplitClient],
    server: SplitServer,
    train_data: Mapping[int | str, Batch],
    task_groups: Mapping[int | str, Sequence[int | str]],
    aggregation: str = "delta-svd",
) -> dict[str, object]:
    """One round: every client takes one step through the split, then each group's adapters are merged and delivered.

    Rounds with one server are numbered on, and what they merged is remembered, as long as clients, groups and method
    stay the same.

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
        ConfigError: a client without data or group, a group that the server does not have, halves that do not fit, a
            method that needs clients to begin alike where they do not, or other clients, groups or another method after
            rounds that changed the base.

    Example:
        >>> model = {"model_name": "data/tiny-bert", "split_layer": 2, "init": "random"}
        >>> clients = [SplitClient(name, rank_config=rank, **model) for name, rank in (("a", 2), ("b", 4))]
        >>> server = SplitServer(num_classes=3, **model)
        >>> data = {name: {"input_ids": torch.randint(5, 60, (4, 12))} for name in ("a", "b")}  # labels are drawn
        >>> metrics = federated_training_round(clients, server, data, {0: ["a", "b"]}, aggregation="fedex")
        >>> sorted(metrics)
        ['avg_loss', 'bytes_down', 'bytes_up', 'group_losses', 'losses']
    """
    if server.training.labels == "client":
        raise ConfigError("this round keeps labels on the server; for labels: client use run")
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
    rounds = _rounds(clients, server, groups, aggregation)
    aggregator, number = rounds.aggregator, rounds.next(data)
    losses: dict[str, float] = {}
    server.begin_round({c.name: groups[c.name] for c in clients}, number, {c.name: c.cut for c in clients})
    server.begin_step(0, server.training.server_optimizer.lr)
    for client in clients:
        client.train_only(aggregator.parts(client.name).trained)
        if client.term is not None:
            client.term.begin_round(factors_of(client.adapters))
        batch = data[client.name]
        message = client.forward(batch, number, 0, _labels(server, groups[client.name], batch, client.name))
        ledger.count(message, message.payload_bytes)
        reply, loss = server.answer(message)
        ledger.count(reply, reply.payload_bytes)
        client.apply_gradients(reply.gradients)
        losses[client.name] = loss.mean
    server.finish_step()
    server.finish_round()
    for group in dict.fromkeys(groups.values()):
        aggregator.merge(group, [c.name for c in clients if groups[c.name] == group], ledger, number)
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


@dataclass
class _Rounds:
    """What rounds with one server have come to: the aggregator, and how many there were of these clients."""

    setting: tuple[str, dict[str, str], list[SplitClient]]
    aggregator: Aggregator
    number: int

    def next(self, data: Mapping[str, Batch]) -> int:
        """The number of the round that begins, in which a client counts for its examples of ``data``."""
        for name, member in self.aggregator.members.items():
            member.weight = float(len(next(iter(data[name].values()))))
        self.number += 1
        return self.number


_OF_SERVERS: WeakKeyDictionary[SplitServer, _Rounds] = WeakKeyDictionary()


def _rounds(clients: Sequence[SplitClient], server: SplitServer, groups: Mapping[str, str], method: str) -> _Rounds:
    setting = method, {c.name: groups[c.name] for c in clients}, list(clients)
    before = _OF_SERVERS.get(server)
    if before is not None and before.setting == setting:
        return before
    if changed := [client.name for client in clients if client.adapters.frozen]:
        raise ConfigError(
            f"rounds before this one changed the frozen weights of client {changed[0]}, and go on only with the same "
            "server, clients, task groups and aggregation; build clients and server anew for others"
        )
    number = before.number if before is not None else 0
    found = _OF_SERVERS[server] = _Rounds(setting, _aggregator(clients, server, groups, method), number)
    return found


def _aggregator(
    clients: Sequence[SplitClient], server: SplitServer, groups: Mapping[str, str], name: str
) -> Aggregator:
    method = load_method(name)()
    if method.form() != LORA:
        raise ConfigError(f"{name} has adapters of another form than these clients; use it in a config (atlas train)")
    for client in clients:
        client.term = method.client_term()
    merged = {g: _largest([c for c in clients if groups[c.name] == g]) for g in dict.fromkeys(groups.values())}
    members = {}
    for client in clients:
        group = groups[client.name]
        upper = [p for p in server.groups[group].adapters.adapters if layer_of(p, client.base.family) >= client.cut]
        served = frozenset(path for path in upper if path in merged[group].adapters)
        # it holds what its group begins with, so nothing has to be delivered before the first round
        members[client.name] = Member(group, 1.0, client.adapters, None, served, version=0, term=client.term)
    base, paths = clients[0].base.model, dict.fromkeys(path for client in clients for path in client.ranks)
    features = {path: features_of(base.get_submodule(path)) for path in paths}
    aggregator = Aggregator(method, members, merged, {}, features, server.groups)
    if method.SENT and (method.CHANGES_BASE or method.SELECTS or set(method.parts_of(1).sent) != set(PARTS)):
        for own, member in members.items():
            begins = truncated(aggregator.groups[member.group].merged, member.ranks)
            start = release(begins, scales_of(member.adapters))
            if not all(torch.allclose(start[path], value) for path, value in member.adapters.state().items()):
                raise ConfigError(
                    f"client {own} does not begin with its group's adapter, as {name} needs; give all one seed"
                )
    for own in members if method.CHANGES_BASE else ():
        aggregator.attach_base(own)
    for own, member in members.items() if method.SELECTS else ():
        member.version = -1
        aggregator.deliver(own, Ledger())  # from what it holds: not counted
    return aggregator


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
    task, size = server.tasks[group], len(next(iter(batch.values())))
    if not task.one_class:
        raise ConfigError(f"the batch of {client} has no labels, and only classes can be drawn at random; give labels")
    return torch.randint(0, len(task.classes), (size,), generator=torch.Generator().manual_seed(0))
