"""The part of the server that merges adapters and heads of each task group and delivers them, at any rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from atlas_cli.aggregation._base import Adapters, Factors, Update, absorb, release, scales_of
from atlas_cli.aggregation._error import relative_error
from atlas_cli.errors import AtlasError
from atlas_cli.federation.protocol import Ledger, Message, adapter_bytes
from atlas_cli.federation.trainables import Trainables
from atlas_cli.models.lora import AdapterSet, features_of
from atlas_cli.runs.hashing import sha256_tensors


@dataclass
class Member:
    """What the aggregator knows of a client: where its adapters and (if it trains one) its head are.

    Attributes:
        weight: its examples, or label tokens: n_k.
        adapters: what it holds; the server knows ranks and scales, values only as sent.
        head: the head that the client trains itself, else None.
        served: layers that the server adapts for it and that others of its group adapt themselves.
        version: of the group's adapter that it was last sent; -1 before the first delivery.
        delivered_sha256: of what the server delivered last.
    """

    group: str
    weight: float
    adapters: AdapterSet
    head: nn.Module | None
    served: frozenset[str] = frozenset()
    version: int = -1
    delivered_sha256: str | None = None

    def held(self) -> dict[str, Tensor]:
        """Everything that is exchanged, as the client holds it."""
        return {**self.adapters.state(), **self.head_state()}

    def head_state(self) -> dict[str, Tensor]:
        """The head's trained parameters, as sent."""
        if self.head is None:
            return {}
        return {f"head.{name}": p.detach() for name, p in self.head.named_parameters() if p.requires_grad}

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by path."""
        return {path: adapter.rank for path, adapter in self.adapters.adapters.items()}


class Aggregator:
    """Merges and delivers.

    Args:
        method: a module of ``aggregation/``.
        members: every client by name.
        groups: each task group's adapter before training, at the largest rank of its clients.
        heads: each task group's head, where clients train heads (U-shaped and unsplit), else empty.
        uppers: what the server trains for each task group. Where clients of a group have different split layers, the
            server is a holder of the adapters between: it enters the merge with the weight of the clients that it
            serves there, and gets the merged adapter back.
        base: to look up layer sizes for the closed form of message sizes.
    """

    def __init__(
        self,
        method: ModuleType,
        members: Mapping[str, Member],
        groups: Mapping[str, AdapterSet],
        heads: Mapping[str, nn.Module],
        base: nn.Module,
        uppers: Mapping[str, Trainables] | None = None,
    ) -> None:
        self.method = method
        self.members = dict(members)
        self.groups = dict(groups)
        self.heads = dict(heads)
        self.merged: dict[str, dict[str, Factors]] = {
            name: absorb(adapters.state(), scales_of(adapters)) for name, adapters in groups.items()
        }
        self.version = dict.fromkeys(groups, 0)
        self.uppers = dict(uppers or {})
        self.features = {
            path: features_of(base.get_submodule(path)) for m in members.values() for path in m.adapters.adapters
        }

    @property
    def shared(self) -> bool:
        """Whether there is a group adapter that clients get."""
        return bool(self.method.SHARED)

    def merge(self, group: str, clients: Sequence[str], ledger: Ledger) -> float | None:
        """Receive what ``clients`` hold and merge it; the merged update's relative error against the exact sum."""
        if not self.shared:
            return None
        updates = [self._receive(client, ledger) for client in clients] + self._of_server(group, clients)
        self.merged[group] = self.method.aggregate(self.merged[group], updates)
        self.version[group] += 1
        self._merge_heads(group, clients)
        adapters = self.groups[group]
        adapters.load(release(self.merged[group], scales_of(adapters)))
        self.give_server(group)
        return relative_error(self.merged[group], updates)

    def deliver(self, client: str, ledger: Ledger) -> bool:
        """Bring a client to its group's current version, if it is behind; whether anything was sent.

        Raises:
            AtlasError: what the client holds after it is not, by hash, what was delivered.
        """
        member = self.members[client]
        if member.version == self.version[member.group] or (not self.shared and member.version >= 0):
            return False
        scales = scales_of(member.adapters)
        held: Adapters = absorb(member.adapters.state(), scales)
        delivered = release(self.method.deliver(self.merged[member.group], held, member.ranks), scales)
        message = Message("adapters", client, "down", delivered)
        ledger.count(message, adapter_bytes(member.ranks, self.features, 4))
        member.adapters.load(message.tensors)
        head = {}
        if member.head is not None:
            head = {f"head.{name}": p.detach() for name, p in self._group_head(member.group)}
            if head:
                ledger.count(Message("head", client, "down", head), _head_bytes(member.head))
                _load_head(member.head, head)
        member.version = self.version[member.group]
        member.delivered_sha256 = sha256_tensors({**delivered, **head})
        self.check_held(client)
        return True

    def give_server(self, group: str) -> None:
        """Give the server's own copies of a group's adapters the merged values; nothing crosses the wire."""
        held = self._contested(group)
        scales, ranks = scales_of(held), {path: a.rank for path, a in held.adapters.items()}
        merged = self.method.deliver(self.merged[group], absorb(held.state(), scales), ranks)
        held.load(release(merged, scales))
        if held.adapters:
            self.uppers[group].forget_moments(held.adapters)

    def _contested(self, group: str) -> AdapterSet:
        """The server's adapters on layers that clients of the group adapt, too."""
        upper = self.uppers[group].adapters.adapters if group in self.uppers else {}
        return AdapterSet({path: a for path, a in upper.items() if path in self.merged[group]})

    def _of_server(self, group: str, clients: Sequence[str]) -> list[Update]:
        """What the server trained on contested layers: an update for each set of layers that it serves."""
        held = self._contested(group)
        factors = absorb(held.state(), scales_of(held))
        weights: dict[frozenset[str], float] = {}
        for member in (self.members[client] for client in clients):
            if member.served:
                weights[member.served] = weights.get(member.served, 0.0) + member.weight
        return [
            Update(f"server (for {len(served)} layers)", weight, {p: f for p, f in factors.items() if p in served})
            for served, weight in weights.items()
        ]

    def check_held(self, client: str) -> None:
        """The proof that what was aggregated is what the client trains on next."""
        member = self.members[client]
        if sha256_tensors(member.held()) != member.delivered_sha256:
            raise AtlasError(f"client {client} does not hold what the server delivered to it")

    def _receive(self, client: str, ledger: Ledger) -> Update:
        member = self.members[client]
        message = Message("adapters", client, "up", member.adapters.state())
        ledger.count(message, adapter_bytes(member.ranks, self.features, 4))
        if head := member.head_state():
            assert member.head is not None
            ledger.count(Message("head", client, "up", head), _head_bytes(member.head))
        return Update(client, member.weight, absorb(message.tensors, scales_of(member.adapters)))

    @torch.no_grad()
    def _merge_heads(self, group: str, clients: Sequence[str]) -> None:
        states = [(self.members[c].weight, self.members[c].head_state()) for c in clients]
        total = sum(weight for weight, _ in states)
        for name, parameter in self._group_head(group) if all(state for _, state in states) else ():
            parameter.zero_()
            for weight, state in states:
                parameter.add_(state[f"head.{name}"], alpha=weight / total)

    def _group_head(self, group: str) -> list[tuple[str, nn.Parameter]]:
        return (
            [(n, p) for n, p in self.heads[group].named_parameters() if p.requires_grad] if group in self.heads else []
        )


@torch.no_grad()
def _load_head(head: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, parameter in head.named_parameters():
        if f"head.{name}" in state:
            parameter.copy_(state[f"head.{name}"])


def _head_bytes(head: nn.Module) -> int:
    # closed form of a linear head: C (D + 1) elements of 4 bytes
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    return sum(4 * m.out_features * (m.in_features + (m.bias is not None)) for m in linears)
