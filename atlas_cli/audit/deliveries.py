"""Reconstructs what a client held when a round began, from the messages that the server delivered to it.

This repeats what a receiver does: it loads adapters, adds rows to its base (``base-change``) or replaces them
(``base-total``), draws new initial factors if its method does, and subtracts what its adapter already adds
(``federation.merging.base_change``). What a codec sent as changes (``wire.deliveries``) is added up. Parts that a
method leaves with the client are as they were at set-up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from atlas_cli.aggregation.contract import TURNS, Factors, absorb, release, scales_of
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.merging.coded_rows import RowsCodec
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.wire.messages import Activations, BaseRows, BaseTotal, Delivery, HeadDelivery, Message
from atlas_cli.wire.parameter_codec import COUNTS
from atlas_cli.wire.recorded_messages import RecordedMessage

BASE = (BaseRows, BaseTotal)
Pieces = dict[str, list[tuple[Tensor, Tensor]]]


class UnknownChange(Inapplicable):
    """A delivery is the change of something that its messages do not tell."""


@dataclass
class Deliveries:
    """The recorded deliveries of a run.

    Attributes:
        federation: the federation before training.
    """

    run: RunDirectory
    federation: Federation
    messages: list[RecordedMessage]

    def to(self, client: str, number: int, types: Collection[type[Message]]) -> Iterator[RecordedMessage]:
        """The messages that the server sent a client before its last step of round ``number``, in order.

        Raises:
            Inapplicable: one that still matters was not recorded.
        """
        self._require_recorded(client, number, types)
        own = [m for m in self.messages if m.client == client]
        last = max((m.number for m in own if m.round == number and m.type is Activations), default=0)
        for message in own:
            if message.type in types and (message.round, message.number) < (number, last):
                yield message

    def decoded(self, client: str, named: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a client has of a delivery of adapters or of a head.

        Args:
            named: as it was sent: the tensors, or the parts of a codec, which are of changes.
            before: what the client was delivered until then.

        Raises:
            UnknownChange: it does not say of what it is the change.
        """
        coding, method = self.federation.aggregator.members[client].coding, self.federation.aggregator.method
        if coding is None or coding.down is None or named.keys() <= before.keys():
            return dict(named)
        turns = {method.parts_of(turn).delivered for turn in TURNS}
        if len(turns) > 1 or method.PRUNES:
            raise UnknownChange(
                "deliveries are changes by a codec (wire.deliveries), of other parts or ranks each round"
            )
        (parts,) = turns
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in before.items()
            if name.startswith("head.") or name.rpartition("lora_")[2] in parts
        }
        changes = coding.down.decode(named, shapes)
        return {name: before[name] + change for name, change in changes.items()}

    def at_round_start(self, client: str, number: int) -> tuple[dict[str, Tensor], Pieces]:
        """The adapters of a client, and the change of its frozen weights, when round ``number`` began.

        Raises:
            Inapplicable: a delivery that matters was not recorded.
        """
        member, device = self.federation.aggregator.members[client], self.federation.device
        scales = scales_of(member.adapters)
        held = release(self.federation.aggregator.held_of(client), scales)
        aggregator = self.federation.aggregator
        changes: Pieces = {}
        if aggregator.method.SELECTS:
            began = aggregator.groups[member.group].frozen_for(client, member.ranks, device)
            changes = {path: list(pieces) for path, pieces in began.items()}
        for each in self.to(client, number, (Delivery, *BASE)):
            message = each.read(Delivery) if each.type is Delivery else each.read(BaseRows)
            tensors = {name: value.to(device) for name, value in message.named.items()}
            if each.type is Delivery:
                held |= self.decoded(client, tensors, held)
                continue
            for path in dict.fromkeys(name.rpartition(".")[0] for name in tensors if ".base_" in name):
                piece = tensors[f"{path}.base_A"], tensors[f"{path}.base_B"]
                changes[path] = [*(changes.get(path, []) if each.type is BaseRows else []), piece]
            if COUNTS in tensors and (codec := RowsCodec.of(member.group, aggregator.members, aggregator.method)):
                for rows in codec.decode(tensors, aggregator.features):
                    for path, (A, B) in rows.items():
                        changes.setdefault(path, []).append((A, B))
        if not self.federation.aggregator.method.CHANGES_BASE:
            return held, changes
        factors = absorb(held, scales)
        drawn = self._drawn(client, number, factors)
        factors |= drawn
        for path, (A, B) in factors.items():
            if B.any():
                changes.setdefault(path, []).append((A, -B))
        return held | release(drawn, {path: scales[path] for path in drawn}), changes

    def head_at_round_start(self, client: str, number: int) -> dict[str, Tensor]:
        """The head that a client trains, as last delivered before round ``number``.

        Raises:
            Inapplicable: a delivery that matters was not recorded.
        """
        held = dict(self.federation.aggregator.head_of(client))  # as it was at set-up
        for message in self.to(client, number, (HeadDelivery,)):
            held |= self.decoded(client, message.read(HeadDelivery).named, held)
        return held

    def unknown(self) -> tuple[str, ...]:
        """The parts of adapters, "A" and "B", that clients train but never receive in a delivery."""
        method = self.federation.aggregator.method
        return () if method.DRAWS else tuple(sorted(set(method.TRAINED) - set(method.DELIVERED)))

    def _drawn(self, client: str, number: int, before: dict[str, Factors]) -> dict[str, Factors]:
        """The layers that a client has drawn anew since set-up, if its method has clients draw them."""
        method, drawn = self.federation.aggregator.method, {}
        if not method.DRAWS:
            return {}
        for path, factors in before.items():
            merged = [(n, group) for n, group, paths in self._merges(client) if n < number and path in paths]
            if merged:
                made, group = merged[-1]
                drawn[path] = method.drawn(factors, path, group, made)
        return drawn

    def _merges(self, client: str) -> list[tuple[int, str, set[str]]]:
        """The rounds in which a client's group or cluster was merged, its name, and the layers that were sent."""
        lines = [line for line in self._clients if line["client"] == client]
        groups = {line["round"]: line["cluster"] or line["task_group"] for line in lines}
        members, found = self.federation.aggregator.members, dict[int, set[str]]()
        for line in self._clients:
            if line["participated"] and (line["cluster"] or line["task_group"]) == groups.get(line["round"]):
                found.setdefault(line["round"], set()).update(members[line["client"]].ranks)
        return [(number, groups[number], paths) for number, paths in sorted(found.items())]

    @cached_property
    def _clients(self) -> list[dict[str, Any]]:
        return list(self.run.read_lines("clients.jsonl"))

    @cached_property
    def _sent(self) -> Counter[tuple[str, int, str]]:
        """The number of messages that the server sent, by client, round and kind."""
        return Counter(
            {
                (line["client"], line["round"], line["kind"]): line["messages"]
                for line in self.run.read_lines("messages.jsonl")
                if line["direction"] == "down"
            }
        )

    def _require_recorded(self, client: str, number: int, types: Collection[type[Message]]) -> None:
        """Require all base changes before a round and the last message of other kinds, where codecs send changes all of
        them; those of set-up are known."""
        coding = self.federation.aggregator.members[client].coding
        changes = coding is not None and coding.down is not None
        kept = Counter((m.round, m.kind) for m in self.messages if m.client == client and m.direction == "down")
        sent = [(n, kind, k) for (who, n, kind), k in self._sent.items() if who == client and n < number]
        latest = {kind: n for n, kind, _ in sorted(sent)}
        replaces = self.federation.aggregator.method.SELECTS  # each message has all of it
        kinds, of_base = ({message.kind for message in each} for each in (types, BASE))
        for n, kind, count in sent:
            counts = (kind in of_base and not replaces) or (n == latest[kind] > 0) or (changes and n > 0)
            if kind in kinds and counts and kept[n, kind] < count:
                raise Inapplicable(
                    f"the {kind} that {client} was sent in round {n} was not recorded, so what it began round {number} "
                    f"with is not known; record round {n} too (audit.record.rounds)"
                )
