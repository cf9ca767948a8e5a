"""What the aggregator knows of a client, and what a client counts for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.aggregation.contract import ClientTerm
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.errors import AtlasError
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
    """Where the state of an idle client is: its keys in the store; clients whose states are equal have one.

    Attributes:
        exchanged: key of what it exchanges (``Member.exchanged``), which is its hash.
        moments, base_changes, term: of the other parts of its ``ClientState``; None: it has none.
        ranks: of its adapters by path.
    """

    exchanged: str
    moments: str | None
    base_changes: str | None
    term: str | None
    ranks: Mapping[str, int]

    @property
    def keys(self) -> list[str]:
        """Of all its parts."""
        return [key for key in self[:4] if key is not None]


@dataclass
class Member:
    """What the aggregator knows of a client, with its adapters and (if it trains one) its head.

    Attributes:
        task_group: of its data and its head.
        weight: its examples, or label tokens: n_k.
        adapters: its own; the server knows ranks and scales, values only as sent.
        head: the head that the client trains itself, else None.
        served: layers that the server adapts for it and that others of its group adapt themselves.
        version: of the group's adapter that it was last sent; -1 before the first delivery.
        delivered_sha256: of what the server delivered last.
        cluster: that it was found to belong to; None: adapters are merged by task group.
        term: what the aggregation method does at the client while it trains, if anything.
        stored: where the state of an idle client is (``federation.offload``): adapters and head cannot be read then.
    """

    task_group: str
    weight: float
    adapters: AdapterSet
    head: nn.Module | None
    served: frozenset[str] = frozenset()
    version: int = -1
    delivered_sha256: str | None = None
    cluster: str | None = None
    term: ClientTerm | None = None
    stored: StoredState | None = None
    _hashed: _Hashed | None = field(default=None, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        if name in ("adapters", "head"):  # removed by put_away
            raise AtlasError(f"the {name} of a client that is away (engine.offload) was read; bring it in first")
        raise AttributeError(name)

    def put_away(self, stored: StoredState) -> None:
        """Let go of adapters and head: the client's state is in the store."""
        self.__dict__.pop("adapters", None)
        self.__dict__.pop("head", None)
        self.term, self.stored, self._hashed = None, stored, None

    def bring_in(self, adapters: AdapterSet, head: nn.Module | None, term: ClientTerm | None) -> None:
        """Refer to the adapters, the head and the method's term of a client that was made anew."""
        self.adapters, self.head, self.term, self.stored = adapters, head, term, None

    @property
    def group(self) -> str:
        """Whose adapters its own are merged with: the cluster, or the task group."""
        return self.cluster or self.task_group

    @property
    def part(self) -> str:
        """Whose head it shares: its task group's, or that of the task group's clients in its cluster."""
        return f"{self.task_group}.{self.cluster}" if self.cluster else self.task_group

    def exchanged(self) -> dict[str, Tensor]:
        """Adapters and the trained part of the head as the client has them: all that is sent and delivered."""
        return {**self.adapters.state(), **self.head_state()}

    def exchanged_sha256(self, *, anew: bool = False) -> str:
        """Hash of ``exchanged()``; computed again only where something was written since it was last computed.

        What is written to a tensor counts its autograd version up (optimizers included: ``numerics.clip_and_step``), so
        a client that took no part in a round costs a look at its counters. Only writes behind autograd's back (through
        ``Tensor.data``, NumPy or a raw address) escape them.

        Args:
            anew: hash again even if no write was detected. What is in the store was hashed when it was put there, and
                is when it is read from a file.
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
        """Take over the group's head."""
        for name, parameter in self.head.named_parameters() if self.head is not None else ():
            if f"head.{name}" in state:
                parameter.copy_(state[f"head.{name}"])

    def head_bytes(self) -> int:
        """Closed form of a linear head: C (D + 1) elements of 4 bytes."""
        linears = [m for m in self.head.modules() if isinstance(m, nn.Linear)] if self.head is not None else []
        return sum(4 * m.out_features * (m.in_features + (m.bias is not None)) for m in linears)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by path."""
        if self.stored is not None:
            return dict(self.stored.ranks)
        return {path: adapter.rank for path, adapter in self.adapters.adapters.items()}


def weight_of(config: ExperimentConfig, client: ClientPlan, group: PreparedGroup) -> float:
    """Before it is normalised: by ``aggregation.weights``, times the client's own weight."""
    rule, own = config.aggregation.weights, client.weight
    if rule == "inverse-rank":
        return own * len(client.ranks) / sum(client.ranks.values())
    if rule == "tokens":
        return own * sum(len(feature["input_ids"]) for feature in group.train[client.name])
    return own * (1.0 if rule == "uniform" else group.task.weight(group.train[client.name]))
