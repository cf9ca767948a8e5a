"""What was predicted of a planned run: the memory of every party, and the bytes of a round."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from atlas_cli.config.client_names import are_folded
from atlas_cli.planning.client_plan import ClientPlan
from atlas_cli.planning.memory.party_memory import PartyMemory
from atlas_cli.planning.round_bytes import RoundBytes, Shape


@dataclass(frozen=True)
class PredictedKind:
    """Clients of one entry of the config of which all is the same that a prediction depends on.

    Attributes:
        client: the first of them; ``names``: of all, in the order of the config.
        alike: the first client with the same needs, which may be of another entry.
        shape: the batch that is assumed for each.
        memory: of one of them.
        round: its bytes on the wire; None in modes without a server.
        rows: of the token embedding, where it does not hold the table.
        kept_texts: bytes of what codecs keep of its texts, part of its cut buffers; None where they keep nothing.
    """

    client: ClientPlan
    names: Sequence[str]
    alike: str
    shape: Shape
    memory: PartyMemory
    round: RoundBytes | None
    rows: int | None
    kept_texts: int | None

    def record(self) -> dict[str, Any]:
        """The memory of one of them as JSON."""
        rows = {} if self.rows is None else {"embedding_rows": self.rows}
        kept = {} if self.kept_texts is None else {"kept_texts": self.kept_texts}
        return {**_parts(self.memory), **rows, **kept, "batch": _batch(self.shape), "alike": self.alike}


@dataclass(frozen=True)
class Prediction:
    """The predicted memory and traffic of a run.

    Attributes:
        kinds: the clients, those of an entry of the config that are alike as one, in the order of their first ones.
        names: of all clients, by entry.
        server, server_shape: its memory in its batch; None without a server.
        references: full fine-tuning and unsplit LoRA, in the largest batch of the clients.
        kept: bytes of the activations that the server keeps of the texts of frozen clients, part of its cut buffers;
            None where no client is frozen, or their texts are not known.
        kept_texts: bytes of what codecs keep of texts at the server, part of its cut buffers; None where they keep
            nothing.
        copies: bytes of what the server keeps of deliveries that are changes, part of its cut buffers; None without.
    """

    kinds: Sequence[PredictedKind]
    names: Sequence[Sequence[str]]
    server: PartyMemory | None
    server_shape: Shape | None
    references: Mapping[str, PartyMemory]
    kept: int | None = None
    kept_texts: int | None = None
    copies: int | None = None

    @cached_property
    def by_name(self) -> dict[str, PredictedKind]:
        """The kind of each client, in the order of the config."""
        found = {name: kind for kind in self.kinds for name in kind.names}
        return {name: found[name] for names in self.names for name in names}

    @property
    def clients(self) -> dict[str, PartyMemory]:
        """The memory of each client, by name."""
        return {name: kind.memory for name, kind in self.by_name.items()}

    @property
    def rounds(self) -> dict[str, RoundBytes]:
        """The bytes on the wire by client; empty in modes without a server."""
        return {name: kind.round for name, kind in self.by_name.items() if kind.round is not None}

    def records_of(self, clients: Collection[str]) -> dict[str, dict[str, Any]]:
        """The memory of some clients by name as JSON, also where ``record`` has them with others of their kind."""
        named = frozenset(clients)
        found = {name: kind.record() for kind in self.kinds for name in kind.names if name in named}
        return {name: found[name] for name in clients}

    @property
    def folded(self) -> bool:
        """Whether a record has the clients of a kind as one."""
        return are_folded(sum(map(len, self.names)))

    def record(self) -> dict[str, Any]:
        """The prediction as JSON in bytes, with the keys of memory.json, ``transient`` and ``peak``.

        Where it is ``folded``, it has clients of a kind under the name of the first, with their ``count``.
        ``round_of_all`` sums ``round`` over all clients; None in modes without a server.
        """
        shown = {kind.names[0]: kind for kind in self.kinds} if self.folded else self.by_name
        parts = {id(kind): kind.record() | ({"count": len(kind.names)} if self.folded else {}) for kind in self.kinds}
        kept = {"kept_texts": self.kept_texts, "kept_activations": self.kept, "kept_adapters": self.copies}
        of_server = None
        if self.server is not None and self.server_shape is not None:
            of_server = _parts(self.server) | {key: size for key, size in kept.items() if size is not None}
            of_server["batch"] = _batch(self.server_shape)
        return {
            "unit": "bytes",
            "clients": {name: {**parts[id(kind)]} for name, kind in shown.items()},
            "server": of_server,
            "references": {name: _parts(m) for name, m in self.references.items()},
            "round": {name: kind.round.record() for name, kind in shown.items() if kind.round is not None},
            "round_of_all": self._round_of_all(),
        }

    def _round_of_all(self) -> dict[str, int] | None:
        """Bytes of a round in which every client takes part; ``later_bytes_up`` where some then send less."""
        sent = [(len(kind.names), kind.round) for kind in self.kinds if kind.round is not None]
        if not sent:
            return None
        of_all = {
            "clients": sum(many for many, _ in sent),
            "bytes_up": sum(many * each.up for many, each in sent),
            "bytes_down": sum(many * each.down for many, each in sent),
        }
        if any(each.later is not None for _, each in sent):
            later = ((many, each.up if each.later is None else each.later) for many, each in sent)
            of_all["later_bytes_up"] = sum(many * up for many, up in later)
        return of_all


def _batch(shape: Shape) -> dict[str, Any]:
    return {"size": shape.batch, "tokens": shape.batch * shape.tokens, "padded": shape.padded}


def _parts(memory: PartyMemory) -> dict[str, Any]:
    return {**asdict(memory), "peak": memory.peak}
