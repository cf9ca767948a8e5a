"""The state of a client: everything that a newly built client needs to go on in its place.

The same state restores a client that was dropped from a round, offloaded, resumed from a checkpoint, or moved to
another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from atlas_cli.federation.client_state.base_changes import changes_by_path, named_changes
from atlas_cli.federation.client_state.coding import lost_of
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.parties.optimizers import load_moments, moments_of
from atlas_cli.federation.parties.party import Party
from atlas_cli.storage.state_dict import copy_into, require_tensor


class ClientState(NamedTuple):
    """Named tensors by kind; together with config, plan and seed they determine the client.

    Attributes:
        exchanged: adapters and the trained part of its head, as they are sent: ``<path>.lora_A``, ``head.<parameter>``.
        moments: of its optimizers: ``<optimizer>/<parameter>/<moment>``.
        base_changes: changes of its frozen weights, where the method merges into the base (``named_changes``).
        term: what the method keeps at the client (``ClientTerm.state_dict``).
        wire: what codecs keep of its texts, at both ends (``StepCodecs.state_dict``), and of its uploads
            (``Coding.state_dict``).
    """

    exchanged: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    base_changes: Mapping[str, Tensor]
    term: Mapping[str, Tensor]
    wire: Mapping[str, Tensor]

    @classmethod
    def of(cls, party: Party, member: Member) -> Self:
        """The present state of a client, as its own tensors; a caller that keeps them must copy them."""
        moments: dict[str, Tensor] = {}
        for i, optimizer in enumerate(party.optimizers()):
            moments |= {f"{i}/{name}": value for name, value in moments_of(optimizer).items()}
        term = party.term.state_dict() if party.term is not None else {}
        wire = party.wire.state_dict() | (member.coding.state_dict() if member.coding is not None else {})
        return cls(member.exchanged(), moments, named_changes(member.adapters.frozen), term, wire)

    def copy(self) -> ClientState:
        """Copies of what training writes to; base changes and what codecs keep are replaced and never written to."""
        exchanged, moments, term = (
            {name: value.clone() for name, value in part.items()} for part in (self.exchanged, self.moments, self.term)
        )
        return ClientState(exchanged, moments, self.base_changes, term, self.wire)

    @torch.no_grad()
    def load(self, party: Party, member: Member) -> None:
        """Load this state into a client; gradients of an unfinished step are dropped.

        Raises:
            StateError: other names, shapes or types.
        """
        adapters = member.adapters.adapters
        for path, adapter in adapters.items():
            A = self.exchanged.get(f"{path}.lora_A")
            if A is not None and A.dim() == 2 and len(A) != adapter.rank:
                require_tensor(len(A) > 0, f"exchanged/{path}.lora_A", "has rank 0")
                adapter.resize(len(A))
        copy_into(member.exchanged(), self.exchanged)
        for parameter in party.trained():
            parameter.grad = None
        party.reset_optimizer()
        moments = dict(self.moments)
        for i, optimizer in enumerate(party.optimizers()):
            names = [name for name in moments if name.startswith(f"{i}/")]
            load_moments(optimizer, {name.partition("/")[2]: moments.pop(name) for name in names})
        require_tensor(not moments, f"moments/{next(iter(moments), '')}", "is of no optimizer")
        require_tensor(party.term is not None or not self.term, f"term/{next(iter(self.term), '')}", "is of no method")
        if party.term is not None:
            party.term.load_state_dict({name: value.to(party.device, copy=True) for name, value in self.term.items()})
        of_texts, of_uploads = lost_of(self.wire)
        party.wire.load_state_dict(of_texts)
        require_tensor(member.coding is not None or not of_uploads, "wire", "is of no codec")
        if member.coding is not None:
            member.coding.load_state_dict(of_uploads, member.exchanged())
        member.adapters.frozen.clear()
        member.adapters.frozen.update(changes_by_path(self.base_changes, party.device))
