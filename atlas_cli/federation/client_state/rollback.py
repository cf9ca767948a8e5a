"""What a client held when a round began, to go back to if it is dropped."""

from __future__ import annotations

import copy

import torch

from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.parties.party import Party


class Snapshot:
    """Copies of a client's adapters with their ranks, of its head and of its optimizers' moments.

    Args:
        member: what the aggregator knows of the client, its exchanged adapters among it.
    """

    def __init__(self, party: Party, member: Member) -> None:
        self.party = party
        self._adapters = [(a, a.rank, a.scaling, a.lora_A, a.lora_B) for a in member.adapters.adapters.values()]
        trained = [*member.adapters.parameters(), *(party.head.parameters() if party.head is not None else ())]
        self._values = [(p, p.detach().clone()) for p in trained]
        self._term = copy.deepcopy(party.term.state_dict()) if party.term is not None else {}
        self._moments = [copy.deepcopy(each.state_dict()["state"]) for each in party.optimizers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Make the client what it was: ranks, values and moments; gradients of an unfinished step are dropped."""
        for adapter, rank, scaling, A, B in self._adapters:
            adapter.rank, adapter.scaling, adapter.lora_A, adapter.lora_B = rank, scaling, A, B
        for parameter, value in self._values:
            parameter.copy_(value)
            parameter.grad = None
        self.party.reset_optimizer()
        for optimizer, state in zip(self.party.optimizers(), self._moments, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        if self.party.term is not None:
            self.party.term.load_state_dict(self._term)
