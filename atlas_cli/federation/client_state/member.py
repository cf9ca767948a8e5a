"""What the aggregator knows of a client, and the weight of a client in a merge."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from atlas_cli.aggregation.contract import ClientTerm
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.errors import AtlasError
from atlas_cli.federation.client_state.coding import Coding
from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.planning.plan import ClientPlan


@dataclass(frozen=True)
class _Hashed:
    """A hash, and the tensors that it is of as they were: each with its version counter and its address.

    The tensors themselves are kept, so that no other can come to be at their address.
    """

    sha256: str
    tensors: tuple[tuple[Tensor, int, int], ...]

    def holds(self, tensors: Iterator[Tensor]) -> bool:
        """Whether ``tensors`` are the same objects, and nothing has written to them since."""
        now = list(tensors)
        if len(now) != len(self.tensors):
            return False
        marks = zip(self.tensors, now, strict=True)
        return all(t is mine and t._version == version and t.data_ptr() == at for (mine, version, at), t in marks)


class StoredState(NamedTuple):
    """The keys of an idle client's state in the store; clients with equal states share one entry.

    Attributes:
        exchanged: key, and hash, of the tensors that the client exchanges (``Member.exchanged``).
        moments, base_changes, term, wire: keys of the other parts of its ``ClientState``; None where there is none.
        ranks: of its adapters by path.
    """

    exchanged: str
    moments: str | None
    base_changes: str | None
    term: str | None
    wire: str | None
    ranks: Mapping[str, int]

    @property
    def parts(self) -> tuple[str, str | None, str | None, str | None, str | None]:
        """The key of each part of the ``ClientState``."""
        return self.exchanged, self.moments, self.base_changes, self.term, self.wire

    @property
    def keys(self) -> list[str]:
        """The keys of all parts."""
        return [key for key in self.parts if key is not None]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)  # equal is what is the same object
class Standing:
    """What is the same of clients that are alike. Idle clients (``engine.offload``) share one object.

    A client of which anything here changes gets another, so that the others of the old one keep it.

    Attributes:
        task_group: the task group of its data and head.
        cluster: the cluster of the client; None where adapters are merged by task group.
        compact: whether small messages have a compact header.
        kind: what else clients must have in common to be delivered the same; it never changes.
        version: version of the group's adapter in the last delivery; -1 before the first one.
        delivered_sha256: hash of the last delivery.
        stored: keys of an idle client's state in the store (``engine.offload``).
    """

    task_group: str
    cluster: str | None = None
    compact: bool = False
    kind: Hashable = None
    version: int = -1
    delivered_sha256: str | None = None
    stored: StoredState | None = None

    @property
    def group(self) -> str:
        """The group that adapters are merged with: the cluster, or the task group."""
        return self.cluster or self.task_group

    @property
    def part(self) -> str:
        """The part whose head is shared: the task group, or the clients of the task group in the cluster."""
        return f"{self.task_group}.{self.cluster}" if self.cluster else self.task_group

    @property
    def value(self) -> Hashable:
        """What is equal of two that say the same."""
        stored = None if self.stored is None else (self.stored.parts, tuple(self.stored.ranks.items()))
        own = (self.task_group, self.cluster, self.compact, self.kind)
        return *own, self.version, self.delivered_sha256, stored


class Member:
    """The aggregator's record of a client, with the client's adapters and (if it trains one) its head.

    Attributes:
        weight: n_k, its number of examples or label tokens.
        adapters: the client's own; the server knows their ranks and scales, and their values only as sent. They cannot
            be read while its state is in the store, nor can its head.
        head: the head that the client itself trains, or None.
        served: layers that the server adapts for this client and that other clients of its group adapt themselves.
        term: the aggregation method's term in the client's local training, or None.
        coding: how its adapters and head are encoded for the wire; None: they are sent as they are.
        standing: what it may have in common with others.
    """

    # there may be a million
    __slots__ = ("_hashed", "adapters", "coding", "head", "served", "standing", "term", "weight")

    adapters: AdapterSet
    head: nn.Module | None

    def __init__(
        self,
        task_group: str,
        weight: float,
        adapters: AdapterSet,
        head: nn.Module | None,
        served: frozenset[str] = frozenset(),
        *,
        version: int = -1,
        term: ClientTerm | None = None,
        coding: Coding | None = None,
        compact: bool = False,
        kind: Hashable = None,
    ) -> None:
        self.weight, self.adapters, self.head, self.served = weight, adapters, head, served
        self.term, self.coding = term, coding
        self._hashed: _Hashed | None = None
        # without adapters nothing is delivered, and that is what it holds
        delivered = None if adapters.ranks else sha256_tensors({})
        self.standing = Standing(task_group, None, compact, kind, version, delivered)

    @classmethod
    def idle(cls, standing: Standing, weight: float, served: frozenset[str], coding: Coding | None) -> Self:
        """The record of a client whose state is in the store."""
        member = cls.__new__(cls)
        member.weight, member.served, member.standing, member.coding = weight, served, standing, coding
        member.term = member._hashed = None
        return member

    def __getattr__(self, name: str) -> Any:
        if name in ("adapters", "head"):  # removed by put_away
            raise AtlasError(f"the {name} of a client that is away (engine.offload) was read; bring it in first")
        raise AttributeError(name)

    def put_away(self, standing: Standing) -> None:
        """Drop the references to adapters and head: the client's state is in the store."""
        del self.adapters, self.head
        self.term, self._hashed, self.standing = None, None, standing
        if self.coding is not None:
            self.coding.forget()

    def bring_in(self, adapters: AdapterSet, head: nn.Module | None, term: ClientTerm | None) -> None:
        """Refer to the adapters, the head and the method's term of a newly built client."""
        self.adapters, self.head, self.term = adapters, head, term
        self.standing = replace(self.standing, stored=None)

    @property
    def task_group(self) -> str:
        """The task group of its data and head."""
        return self.standing.task_group

    @property
    def compact(self) -> bool:
        """Whether its small messages have a compact header."""
        return self.standing.compact

    @property
    def group(self) -> str:
        """The group that its adapters are merged with: its cluster, or its task group."""
        return self.standing.group

    @property
    def part(self) -> str:
        """The part whose head it shares: its task group, or the clients of its task group in its cluster."""
        return self.standing.part

    @property
    def cluster(self) -> str | None:
        """The cluster of the client; None where adapters are merged by task group."""
        return self.standing.cluster

    @property
    def version(self) -> int:
        """Version of the group's adapter in the last delivery; -1 before the first one."""
        return self.standing.version

    @version.setter
    def version(self, version: int) -> None:
        self.standing = replace(self.standing, version=version)

    @property
    def delivered_sha256(self) -> str | None:
        """Hash of the last delivery."""
        return self.standing.delivered_sha256

    @delivered_sha256.setter
    def delivered_sha256(self, sha256: str | None) -> None:
        self.standing = replace(self.standing, delivered_sha256=sha256)

    @property
    def stored(self) -> StoredState | None:
        """Keys of an idle client's state in the store (``engine.offload``)."""
        return self.standing.stored

    def exchanged(self) -> dict[str, Tensor]:
        """The client's adapters and the trained part of its head: everything that is sent and delivered."""
        return {**self.adapters.state(), **self.head_state()}

    def exchanged_sha256(self, *, anew: bool = False) -> str:
        """Hash of ``exchanged()``, computed again only if a tensor was written to since the last time.

        Each write to a tensor increments its autograd version (optimizers included: ``numerics.clip_and_step``), so
        a client that took no part in a round costs a look at its counters. Only writes behind autograd's back (through
        ``Tensor.data``, NumPy or a raw address) escape them.

        Args:
            anew: hash again even if no write was detected. A state in the store was hashed when it was stored, and is
                hashed again when it is read from a file.
        """
        if self.stored is not None:
            return self.stored.exchanged
        if anew or self._hashed is None or not self._hashed.holds(self._tensors()):
            marks = tuple((t, t._version, t.data_ptr()) for t in self._tensors())
            self._hashed = _Hashed(sha256_tensors(self.exchanged()), marks)
        return self._hashed.sha256

    def _tensors(self) -> Iterator[Tensor]:
        yield from (t for a in self.adapters.adapters.values() for t in (a.lora_A, a.lora_B))
        yield from self.head.parameters() if self.head is not None else ()

    def head_state(self) -> dict[str, Tensor]:
        """The head's trained parameters, as sent."""
        if self.head is None:
            return {}
        return {f"head.{name}": p.detach() for name, p in self.head.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_head(self, state: dict[str, Tensor]) -> None:
        """Load the group's head."""
        for name, parameter in self.head.named_parameters() if self.head is not None else ():
            if f"head.{name}" in state:
                parameter.copy_(state[f"head.{name}"])

    def head_bytes(self) -> int:
        """Bytes of a head in closed form: 4 C (D + 1) of a trained linear layer, 4 D of a trained vector of a norm."""
        modules = [*self.head.modules()] if self.head is not None else []
        linears = [m for m in modules if isinstance(m, nn.Linear) and m.weight.requires_grad]
        vectors = [p for m in modules if not isinstance(m, nn.Linear) for p in m.parameters(recurse=False)]
        of_linears = sum(4 * m.out_features * (m.in_features + (m.bias is not None)) for m in linears)
        return of_linears + sum(4 * len(p) for p in vectors if p.requires_grad)

    @property
    def exchanges(self) -> bool:
        """Whether it has anything to send and receive; a client without adapters has no head either."""
        return bool(self.adapters.ranks if self.stored is None else self.stored.ranks)

    @property
    def ranks(self) -> dict[str, int]:
        """Adapter rank by path."""
        if self.stored is not None:
            return dict(self.stored.ranks)
        return self.adapters.ranks


STANDING: Callable[[Member], Standing] = attrgetter("standing")


def standings(members: Mapping[str, Member]) -> Counter[Standing]:
    """Where clients stand, and how many of them stand so, in the order of the first of each."""
    return Counter(map(STANDING, members.values()))


def by_standing(members: Mapping[str, Member], clients: Collection[str]) -> dict[Standing, list[str]]:
    """Some clients, each once, by where they stand."""
    found = defaultdict[Standing, list[str]](list)
    if len(clients) == len(members):  # of a million nothing else is looked at
        for client, member in members.items():
            found[member.standing].append(client)
    else:
        for client in clients:
            found[members[client].standing].append(client)
    return found


def one_of_each(members: Mapping[str, Member]) -> dict[Standing, Member]:
    """Of clients that stand alike one, in the order of the first of each."""
    return dict(zip(map(STANDING, members.values()), members.values(), strict=True))


def restand(members: Iterable[Member], **changes: Any) -> None:
    """Change the same of some clients' standings; those that shared one share the next."""
    made: dict[Standing, Standing] = {}
    for member in members:
        if (before := member.standing) not in made:
            made[before] = replace(before, **changes)
        member.standing = made[before]


def weights_of(
    config: ExperimentConfig, client: ClientPlan, group: PreparedGroup, names: Collection[str]
) -> Iterator[float]:
    """Weights of clients before normalisation: by ``aggregation.weights``, times the clients' own weight.

    Args:
        client: the plan of one of them; the others differ in name alone.
    """
    rule, own = config.aggregation.weights, client.weight
    if rule == "inverse-rank" and client.ranks:
        return repeat(own * len(client.ranks) / sum(client.ranks.values()), len(names))
    trained = map(group.train.__getitem__, names)
    if rule == "tokens":
        return (own * sum(len(feature["input_ids"]) for feature in features) for features in trained)
    if rule == "uniform":
        return repeat(own * 1.0, len(names))
    return (own * group.task.weight(features) for features in trained)
