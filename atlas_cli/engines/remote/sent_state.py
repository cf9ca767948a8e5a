"""The state of a client as it is sent to the process that computes it, at the start of a round, and back at its end."""

from __future__ import annotations

from typing import NamedTuple, Self

from atlas_cli.engines.remote.arrays import Packed, pack, unpack
from atlas_cli.federation.client_state.base_changes import named_changes
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.client_state.state import ClientState
from atlas_cli.federation.parties.measured_memory import Usage
from atlas_cli.federation.parties.party import Party
from atlas_cli.privacy.client_side import ClientProtection


class SentState(NamedTuple):
    """A ``ClientState``, and what else is sent with a client in a round.

    Attributes:
        trained: the parts of its adapters that it trains.
        wire: what the codecs of the client's end keep; the server's end keeps its own.
        privacy: its mechanisms.
        usage: its measured memory; None where it is not measured.
    """

    exchanged: Packed
    moments: Packed
    base_changes: Packed
    term: Packed
    trained: tuple[str, ...]
    wire: Packed
    privacy: ClientProtection
    usage: Usage | None

    @property
    def packed(self) -> tuple[Packed, ...]:
        """The parts of the ``ClientState``."""
        return self.exchanged, self.moments, self.base_changes, self.term, self.wire

    @classmethod
    def of(cls, party: Party, member: Member) -> Self:
        """The present state of a client."""
        state = ClientState.of(party, member)._replace(wire=party.wire.state_dict("client"))
        exchanged, moments, base_changes, term, wire = map(pack, state)
        trained = party.exchanged.trained_parts
        return cls(exchanged, moments, base_changes, term, trained, wire, party.privacy, party.usage)

    def load(self, party: Party, member: Member) -> None:
        """Load this state into a client; memory is measured only in the process that computes the client.

        A round does not change frozen weights, so a client that already has base changes keeps them.
        """
        party.train_only(self.trained)
        state = ClientState(*(unpack(each, party.device) for each in self.packed))
        changes = named_changes(member.adapters.frozen) or state.base_changes
        uploads = member.coding.state_dict() if member.coding is not None else {}
        wire = {**party.wire.state_dict("server"), **uploads, **state.wire}
        state._replace(base_changes=changes, wire=wire).load(party, member)
        party.privacy = self.privacy
