"""Clients that are put away: of one that nobody needs just now there is only what it owns, in a store.

A client is made anew when it is brought in, as it was made at the start of the run, and given what it owned: adapters
with their ranks, its head, its optimizer's moments, and the changes of its frozen weights. Clients that own the same
share it: before the first round those of a rank and task group, later those of a version. Reading one that is away is
an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import AtlasError
from atlas_cli.federation.client_state.contents import give_term, shrink
from atlas_cli.federation.client_state.member import Away, Member
from atlas_cli.federation.parties.optimizers import load_moments, moments_of
from atlas_cli.federation.parties.party import Party
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.runs.directory import folder_of_runs
from atlas_cli.storage.tensor_store import ContentStore
from atlas_cli.units import parse_bytes


class OffloadedClients(Mapping[str, Party]):
    """The clients of a run by name, of whom those that are not ``at_hand`` are away.

    Args:
        make: a client by name, as it is before the run.
        members: of all clients; they are away when their client is.
        store: holds what they own.
    """

    def __init__(self, make: Callable[[str], Party], members: Mapping[str, Member], store: ContentStore) -> None:
        self._make, self._members, self.store = make, members, store
        self._present: dict[str, Party] = {}

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

    @contextmanager
    def at_hand(self, names: Iterable[str]) -> Iterator[None]:
        """Inside the block these clients can be used; those that were away are put away after it.

        After an error they stay where they are: the run ends.

        Raises:
            OutputError: what no longer fits in memory cannot be written.
            AtlasError: what a client owned was changed while it was away.
        """
        brought = [name for name in names if name not in self._present]
        for name in brought:
            self._bring_in(name)
        yield
        for name in brought:
            self._put_away(name)

    def start(self, name: str, party: Party, first: str) -> None:
        """Put away a client as it is before the run; ``party`` is of the ``first`` that starts as it does."""
        member = self._members[name]
        if name == first:
            member.put_away(put_into(self.store, party, member))
        else:
            self.become(name, self._members[first])

    def become(self, name: str, other: Member) -> None:
        """Let a client that is away own what another does that is away, too."""
        member = self._members[name]
        assert other.away is not None
        for key in other.away.keys:
            self.store.hold(key)
        if member.away is not None:
            for key in member.away.keys:
                self.store.release(key)
        member.put_away(other.away)

    def _bring_in(self, name: str) -> None:
        member, away = self._members[name], self._members[name].away
        assert away is not None
        party = self._make(name)
        held = exchanged(party)
        shrink(party, held, {path: r for path, r in away.ranks.items() if r < held.adapters[path].rank})
        values, moments, frozen = (self.store.get(key) if key else {} for key in away[:3])
        with torch.no_grad():
            held.load({n: value for n, value in values.items() if not n.startswith("head.")})
        held.frozen.update(as_changes(frozen, party.device))
        member.bring_in(held, party.head, party.term)
        member.load_head(values)
        for i, optimizer in enumerate(party.optimizers()):
            load_moments(optimizer, {n.partition("/")[2]: t for n, t in moments.items() if n.startswith(f"{i}/")})
        give_term(party, moments)
        for key in away.keys:
            self.store.release(key)
        self._present[name] = party

    def _put_away(self, name: str) -> None:
        self._members[name].put_away(put_into(self.store, self._present[name], self._members[name]))
        del self._present[name]


def offload_of(
    config: ExperimentConfig, make: Callable[[str], Party], members: Mapping[str, Member]
) -> OffloadedClients | None:
    """The clients of a config that asks for them to be put away, else None."""
    if config.engine.offload is None:
        return None
    store = ContentStore(parse_bytes(config.engine.offload), folder_of_runs(config.output.dir))
    return OffloadedClients(make, members, store)


def moments_in(party: Party) -> dict[str, Tensor]:
    """State of a client's optimizers, ``<optimizer>/<parameter>/<what>``, and of its method's term, ``term/<name>``."""
    moments = {f"{i}/{n}": value for i, each in enumerate(party.optimizers()) for n, value in moments_of(each).items()}
    return moments | {f"term/{n}": value for n, value in (party.term.state_dict() if party.term else {}).items()}


def changes_in(member: Member) -> dict[str, Tensor]:
    """Changes of a client's frozen weights, ``<path>/<number>/A`` and ``/B``."""
    pieces = ((f"{path}/{i}", piece) for path, each in member.adapters.frozen.items() for i, piece in enumerate(each))
    return {f"{where}/{part}": value for where, piece in pieces for part, value in zip("AB", piece, strict=True)}


def put_into(store: ContentStore, party: Party, member: Member) -> Away:
    """Put what a client owns into a store."""
    moments, frozen = moments_in(party), changes_in(member)
    head = party.head.named_parameters() if party.head is not None else ()
    return Away(
        store.put(member.held()),
        store.put(moments) if moments else None,
        store.put(frozen) if frozen else None,
        member.ranks,
        {name: None if p.requires_grad else p.detach() for name, p in head},
    )


def exchanged(party: Party) -> AdapterSet:
    """The adapters that a client sends and is sent."""
    return party.exchanged


def as_changes(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """What ``changes_in`` named, by path."""
    frozen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in sorted(tensors):  # a layer has two pieces at most: its changes, and what of them is in its adapter
        path, i, part = name.rsplit("/", 2)
        if part == "A":
            frozen.setdefault(path, []).append((tensors[name].to(device), tensors[f"{path}/{i}/B"].to(device)))
    return frozen
