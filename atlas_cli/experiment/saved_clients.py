"""The states of all clients for checkpoints: equal ones are saved once, and only clients in use are hashed again."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from atlas_cli.cycle_collection import without_collection
from atlas_cli.federation.client_state.base_changes import named_changes, require_changes
from atlas_cli.federation.client_state.member import STANDING, Member, Standing
from atlas_cli.federation.client_state.offloaded import OffloadedClients
from atlas_cli.federation.client_state.state import ClientState
from atlas_cli.federation.federation import Federation
from atlas_cli.hashing import sha256_tensors
from atlas_cli.storage.state_dict import StateDict, is_count, require_tensor, require_value, tensors_and_values
from atlas_cli.storage.tensor_store import TensorStore

PARTS = ClientState._fields
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ClientRecord(NamedTuple):
    """A checkpoint's record of a client; equal clients share one.

    Attributes:
        version, delivered_sha256: as in ``Member``.
        exchanged, moments, base_changes, term, wire: hashes of the parts of its ``ClientState``; None where there is
            none.
    """

    version: int
    delivered_sha256: str | None
    exchanged: str
    moments: str | None
    base_changes: str | None
    term: str | None
    wire: str | None

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The name and the hash of each part that it has."""
        return [(part, sha256) for part, sha256 in zip(PARTS, self[2:], strict=True) if sha256 is not None]


class _Whose(NamedTuple):
    """Which client has which record: the ``keys`` of all in the order of the config, and by key the record."""

    keys: Sequence[Hashable]
    records: Mapping[Hashable, ClientRecord]


class SavedClients:
    """The clients of a federation, as a part of the run's state.

    The states of idle clients are in the federation's own store; equal states of the others are copied once.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self._copies = TensorStore()
        self._records: dict[str, ClientRecord] = {}  # of clients in memory, in the order of the config
        self._known: dict[ClientRecord, ClientRecord] = {}  # equal ones are one object
        self._keys: dict[str, list[str]] = {}  # of a client's parts that are among the copies
        self._seen = 0

    @without_collection()
    def state_dict(self) -> StateDict:
        """``records`` (``ClientRecord``), the number of its record for each of ``clients``, and
        ``<part>/<sha256>/...``."""
        whose = self._in_memory() if self.federation.offload is None else self._in_store(self.federation.offload)
        numbers: dict[ClientRecord, int] = {}
        of_key = {key: numbers.setdefault(record, len(numbers)) for key, record in whose.records.items()}
        records, clients = list(numbers), [of_key[key] for key in whose.keys]  # of a million nothing else is looked at
        self._known = {record: record for record in records}
        state: StateDict = {"records": list(map(list, records)), "clients": clients}
        for part, sha256 in dict.fromkeys(each for record in records for each in record.parts):
            state |= {f"{part}/{sha256}/{name}": value for name, value in self._tensors(sha256).items()}
        return state

    def _in_memory(self) -> _Whose:
        """Records of clients that are all in memory; only those used since the last time are looked at."""
        last_used, derived = self.federation.last_used, dict[object, str | None]()
        changed = last_used.since(self._seen) if self._records else self.federation.clients
        self._seen = last_used.now
        for name in changed:
            self._look_at(name, derived)
        keys = list(map(id, self._records.values()))
        objects = {id(record): record for record in self._known.values()}
        return _Whose(keys, {key: objects[key] for key in dict.fromkeys(keys)})

    def _in_store(self, offload: OffloadedClients) -> _Whose:
        """Records of idle clients, which those share that stand alike; only who is at hand is looked at by itself."""
        derived = dict[object, str | None]()
        for name in [name for name in self._records if name not in offload.present]:
            del self._records[name]
            self._release(self._keys.pop(name))
        for name in offload.present:
            self._look_at(name, derived)
        members = self.federation.aggregator.members
        own = {members[name].standing: record for name, record in self._records.items()}
        keys = list(map(STANDING, members.values()))
        return _Whose(keys, {key: own[key] if key in own else _record_of(key) for key in dict.fromkeys(keys)})

    def load_state_dict(self, state: StateDict) -> None:
        """Restore every client; idle clients that begin alike and have the same state share it.

        Raises:
            StateError: other clients, or a state that no client of this federation can have.
        """
        tensors, values = tensors_and_values(state, ["records", "clients"])
        records = self._checked_records(values["records"], values["clients"])
        contents = self._checked_contents(tensors, records)
        federation, aggregator = self.federation, self.federation.aggregator
        aggregator.group_weights.forget()  # ranks may be others
        alike: dict[tuple[object, int], list[str]] = {}
        for (name, member), number in zip(aggregator.members.items(), values["clients"], strict=True):
            alike.setdefault((member.standing, number), []).append(name)
        derived: set[object] = set()
        for (_, number), names in alike.items():
            record, group = records[number], aggregator.members[names[0]].group
            newest = aggregator.groups[group].version
            fits = record.version <= newest
            require_value(fits, f"records[{number}]", f"has version {record.version}, and the newest is {newest}")
            first = aggregator.members[names[0]]
            with federation.at_hand(names[:1]):
                self._load(names[0], record, contents, derived)
                first.version, first.delivered_sha256 = record.version, record.delivered_sha256
            if federation.offload is not None:
                federation.offload.share(names[1:], first.standing)
        self._copies, self._records, self._known, self._keys = TensorStore(), {}, {}, {}  # all are looked at again

    def _look_at(self, name: str, derived: dict[object, str | None]) -> None:
        """Make the record of a client in memory anew.

        Args:
            derived: hashes of base changes that follow from the group's version, by group and ranks.
        """
        federation, store = self.federation, self._copies
        member, left = federation.aggregator.members[name], self._keys.pop(name, [])
        state = ClientState.of(federation.clients[name], member)
        alike = self._what_its_base_follows(name, member)
        follows = member.version == federation.aggregator.groups[member.group].version
        known = derived.get(alike) if follows else None
        parts = (
            store.put(state.exchanged, member.exchanged_sha256()),
            store.put(state.moments) if state.moments else None,
            store.put(state.base_changes, known) if state.base_changes else None,
            store.put(state.term) if state.term else None,
            store.put(state.wire) if state.wire else None,
        )
        if follows:
            derived[alike] = parts[2]
        self._keys[name] = [key for key in parts if key is not None]
        record = ClientRecord(member.version, member.delivered_sha256, *parts)
        self._records[name] = self._known.setdefault(record, record)
        self._release(left)

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._copies.release(key)

    def _tensors(self, sha256: str) -> Mapping[str, Tensor]:
        if sha256 in self._copies:
            return self._copies.get(sha256)
        assert self.federation.offload is not None
        return self.federation.offload.store.get(sha256)

    def _load(
        self, name: str, record: ClientRecord, contents: Mapping[str, Mapping[str, Tensor]], derived: set[object]
    ) -> None:
        """Restore a client that is at hand.

        Args:
            derived: groups, ranks and hashes of base changes that were found to follow from the group's version.
        """
        aggregator = self.federation.aggregator
        member = aggregator.members[name]
        state = ClientState(*(contents[sha256] if sha256 is not None else {} for sha256 in record[2:]))
        for path, planned in self._planned_ranks(name).items():
            A, where = state.exchanged.get(f"{path}.lora_A"), f"exchanged/{record.exchanged}/{path}.lora_A"
            if A is not None:
                require_tensor(A.dim() == 2, where, f"has shape {tuple(A.shape)}")
                smaller = aggregator.method.PRUNES and 0 < len(A) < planned
                require_tensor(len(A) == planned or smaller, where, f"has rank {len(A)}, expected {planned}")
        state.load(self.federation.clients[name], member)
        shapes = aggregator.method.extra_tensors(aggregator.layers_of(member.ranks)).at_client
        for key, value in state.term.items():
            fits = shapes.get(key) == tuple(value.shape)
            require_tensor(fits, f"term/{record.term}/{key}", f"has shape {tuple(value.shape)}")
        changes_base = aggregator.method.CHANGES_BASE or aggregator.method.SELECTS
        if not changes_base or record.version != aggregator.groups[member.group].version:
            return
        aggregator.attach_base(name)  # all clients of a version share what it comes to
        alike = *self._what_its_base_follows(name, member), record.base_changes
        if alike not in derived:
            changes = named_changes(member.adapters.frozen)
            same = (sha256_tensors(changes) if changes else None) == record.base_changes
            require_tensor(same, f"base_changes/{record.base_changes}", "is not what its version comes to")
        derived.add(alike)

    def _what_its_base_follows(self, name: str, member: Member) -> tuple[object, ...]:
        """From what the base changes of a client at its group's version follow."""
        decodes = member.coding is not None and member.coding.down is not None  # its own
        own = name if self.federation.aggregator.method.SELECTS or decodes else None
        return member.group, tuple(member.ranks.items()), own

    def _planned_ranks(self, name: str) -> dict[str, int]:
        planned = self.federation.plan.by_name[name]
        return {**planned.ranks, **({} if self.federation.split else self.federation.plan.above(planned.cut))}

    def _checked_records(self, records: Any, clients: Any) -> list[ClientRecord]:
        require_value(isinstance(records, list), "records", "is no list")
        found = [_record(fields, f"records[{i}]") for i, fields in enumerate(records)]
        require_value(isinstance(clients, list) and all(map(is_count, clients)), "clients", "are no whole numbers")
        n = len(self.federation.clients)
        require_value(len(clients) == n, "clients", f"has {len(clients)} entries, and the experiment {n} clients")
        used = list(dict.fromkeys(clients)) == list(range(len(records)))
        require_value(used, "clients", f"does not name each of the {len(records)} records in order")
        return found

    def _checked_contents(
        self, tensors: Mapping[str, Tensor], records: list[ClientRecord]
    ) -> dict[str, dict[str, Tensor]]:
        """By hash, the tensors of all parts, which have it."""
        contents: dict[tuple[str, str], dict[str, Tensor]] = {each: {} for record in records for each in record.parts}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            sha256, _, own = rest.partition("/")
            require_tensor((part, sha256) in contents, name, "is of no client")
            contents[part, sha256][own] = value
        for (part, sha256), content in contents.items():
            nothing = part == "exchanged" and sha256 == sha256_tensors({})  # a frozen client has no adapter
            require_tensor(bool(content) or nothing, f"{part}/{sha256}", "is missing, which a client has")
            require_tensor(sha256_tensors(content) == sha256, f"{part}/{sha256}", "is not what its hash says")
            if part == "base_changes":
                require_changes(f"{part}/{sha256}/", content, self.federation.aggregator.features)
        return {sha256: content for (_, sha256), content in contents.items()}


def _record_of(standing: Standing) -> ClientRecord:
    """That of idle clients."""
    assert standing.stored is not None
    return ClientRecord(standing.version, standing.delivered_sha256, *standing.stored.parts)


def _record(fields: Any, where: str) -> ClientRecord:
    whole = isinstance(fields, list) and len(fields) == len(ClientRecord._fields)
    require_value(whole, where, f"is not {', '.join(ClientRecord._fields)}")
    record = ClientRecord(*fields)
    known = type(record.version) is int and record.version >= -1
    require_value(known, f"{where}.version", "is no whole number from -1 on")
    for name, value in zip(ClientRecord._fields[1:], record[1:], strict=True):
        fits = isinstance(value, str) and _SHA256.fullmatch(value) is not None
        require_value(fits or (value is None and name != "exchanged"), f"{where}.{name}", "is no SHA-256")
    return record
