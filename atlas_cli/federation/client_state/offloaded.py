"""Offloaded clients: while a client is idle, only its state is kept, in a store.

A client that is needed is built again as at the start of the run, and its state is loaded. Clients with equal states
share one entry, and clients that are alike one ``Standing``: before the first round those of equal rank and task group,
    later those at the same version. Reading an offloaded client is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import AtlasError
from atlas_cli.federation.client_state.member import STANDING, Member, Standing, StoredState
from atlas_cli.federation.client_state.state import ClientState
from atlas_cli.federation.parties.party import Party
from atlas_cli.runs.directory import folder_of_runs
from atlas_cli.storage.scratch_folders import OFFLOAD
from atlas_cli.storage.tensor_files import TensorFiles
from atlas_cli.storage.tensor_store import TensorStore
from atlas_cli.units import parse_bytes


class OffloadedClients(Mapping[str, Party]):
    """The clients of a run by name; only those inside ``at_hand`` are in memory.

    Args:
        make: builds a client by name, in its state before the run.
        members: the aggregator's records of all clients; each is offloaded together with its client.
        store: where states are kept.
    """

    def __init__(self, make: Callable[[str], Party], members: Mapping[str, Member], store: TensorStore) -> None:
        self._make, self._members, self.store = make, members, store
        self._present: dict[str, Party] = {}
        self._standings: WeakValueDictionary[Hashable, Standing] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Party:
        if name in self._present:
            return self._present[name]
        if name in self._members:
            raise AtlasError(f"client {name} is away (engine.offload) and was read without being brought in")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def present(self) -> Collection[str]:
        """The clients that are in memory."""
        return self._present.keys()

    @contextmanager
    def at_hand(self, names: Iterable[str]) -> Iterator[None]:
        """Inside the block these clients can be used; those that were offloaded are offloaded again after it.

        After an error they stay in memory, as the run ends.

        Raises:
            OutputError: what no longer fits in memory cannot be written.
            AtlasError: the file of a state was changed.
        """
        brought = [name for name in names if name not in self._present]
        for name in brought:
            self._bring_in(name)
        yield
        for name in brought:
            self._put_away(name)

    def start(self, name: str, party: Party) -> Standing:
        """Offload a client in its state before the run; returns what others that begin alike can ``join``."""
        member = self._members[name]
        member.put_away(self._standing(party, member))
        return member.standing

    def join(self, standing: Standing, count: int, **changes: Any) -> Standing:
        """Where clients stand that begin in the state of another that is offloaded; they are ``count``.

        Args:
            changes: in what they differ from it.
        """
        assert standing.stored is not None
        self._hold(standing.stored, count)
        return self._as_others(replace(standing, **changes))

    def share(self, names: Collection[str], standing: Standing) -> None:
        """Let offloaded clients stand as another offloaded client of their kind: in its state, at its delivery."""
        assert standing.stored is not None
        members = list(map(self._members.__getitem__, names))
        before = Counter(map(STANDING, members))
        self._hold(standing.stored, len(members))
        for member in members:
            member.standing = standing
        for left, times in before.items():
            assert left.stored is not None and left.kind == standing.kind
            self._release(left.stored, times)

    def state_of(self, stored: StoredState) -> ClientState:
        """The stored state of a client."""
        return ClientState(*(self.store.get(key) if key is not None else {} for key in stored.parts))

    def _bring_in(self, name: str) -> None:
        member, stored = self._members[name], self._members[name].stored
        assert stored is not None
        party = self._make(name)
        member.bring_in(party.exchanged, party.head, party.term)
        self.state_of(stored).load(party, member)
        self._release(stored)
        self._present[name] = party

    def _put_away(self, name: str) -> None:
        member = self._members[name]
        member.put_away(self._standing(self._present[name], member))
        self._present.pop(name).wire.memory.clear()

    def _standing(self, party: Party, member: Member) -> Standing:
        """Where a client stands once its state is in the store: as the others of which all is the same."""
        state, put = ClientState.of(party, member), self.store.put
        moments, base_changes, term, wire = (put(part) if part else None for part in state[1:])
        stored = StoredState(put(state.exchanged), moments, base_changes, term, wire, member.ranks)
        return self._as_others(replace(member.standing, stored=stored))

    def _as_others(self, standing: Standing) -> Standing:
        """The same as one object."""
        return self._standings.setdefault(standing.value, standing)

    def _hold(self, stored: StoredState, times: int) -> None:
        for key in stored.keys:
            self.store.hold(key, times)

    def _release(self, stored: StoredState, times: int = 1) -> None:
        for key in stored.keys:
            self.store.release(key, times)


def offload_of(
    config: ExperimentConfig, make: Callable[[str], Party], members: Mapping[str, Member]
) -> OffloadedClients | None:
    """The offloaded clients, if the config asks for offloading; else None."""
    if config.engine.offload is None:
        return None
    files = TensorFiles(folder_of_runs(config.output.dir), OFFLOAD)
    return OffloadedClients(make, members, TensorStore(parse_bytes(config.engine.offload), files))
