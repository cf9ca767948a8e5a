"""The byte ledger of a round: every message by client, kind and direction, against the closed form of its size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import TYPES, Direction, HiddenStates, Message, NamedTensors
from atlas_cli.wire.serialized import LARGE

# by which key of ``wire`` a message that is none of a step is encoded
_ASKED: dict[tuple[str, Direction], str] = {
    ("adapters", "down"): "deliveries",
    ("base-change", "down"): "deliveries",
    ("base-total", "down"): "deliveries",
    ("head", "down"): "deliveries",
    ("head", "up"): "adapters",
}
_COUNTED = ("messages", "bytes", "payload_bytes", "closed_form_bytes", "sizes")


@dataclass(slots=True)  # there may be millions
class _Entry:
    messages: int = 0
    bytes: int = 0
    payload_bytes: int = 0
    closed_form_bytes: int = 0
    sizes: list[int] = field(default_factory=list)
    lost: Lost | None = None

    def lose(self, lost: Lost | None) -> None:
        """Add what a codec lost."""
        if lost is not None:
            self.lost = lost if self.lost is None else self.lost + lost


@dataclass
class Ledger:
    """Counts every message of a round by client, kind and direction.

    Each is entered with the payload that the closed form says it must have (from batch, hidden size, ranks and dtype,
    not from the tensors sent); the two must agree, which ``mismatches`` reports.

    Attributes:
        watch: called with each message as it is counted, which is when it crosses the wire.
    """

    watch: Callable[[Message], None] | None = None
    entries: dict[tuple[str, str, Direction], _Entry] = field(default_factory=dict)
    _bytes: dict[tuple[str, Direction], int] = field(default_factory=dict)

    def count(self, message: Message, closed_form: int) -> None:
        """Enter one message."""
        entry = self.entries.setdefault((message.client, message.kind, message.direction), _Entry())
        entry.messages += 1
        entry.bytes += message.bytes
        entry.payload_bytes += message.payload_bytes
        entry.closed_form_bytes += closed_form
        entry.sizes.append(message.bytes)
        entry.lose(message.lost if isinstance(message, HiddenStates | NamedTensors) else None)
        if self.watch is not None:
            self.watch(message)
        whose = message.client, message.direction
        self._bytes[whose] = self._bytes.get(whose, 0) + message.bytes

    def add(self, other: Ledger, client: str, messages: Iterable[Message] = ()) -> None:
        """Count another ledger's messages of one client again, for ``client``.

        Args:
            messages: the messages themselves, if they are watched.
        """
        if self.watch is not None:
            for message in messages:
                self.watch(message.to(client))
        for (_, kind, way), counted in other.entries.items():
            entry = self.entries.setdefault((client, kind, way), _Entry())
            entry.messages += counted.messages
            entry.bytes += counted.bytes
            entry.payload_bytes += counted.payload_bytes
            entry.closed_form_bytes += counted.closed_form_bytes
            entry.sizes += counted.sizes
            entry.lose(counted.lost)
            self._bytes[client, way] = self._bytes.get((client, way), 0) + counted.bytes

    def total(self, direction: Direction, clients: Iterable[str]) -> int:
        """Serialised bytes of some clients in one direction."""
        return sum(self._bytes.get((client, direction), 0) for client in set(clients))

    def sizes(self, client: str, kind: str, direction: Direction) -> list[int]:
        """Serialised bytes of each of a client's messages of one kind, in the order in which they were sent."""
        entry = self.entries.get((client, kind, direction))
        return entry.sizes if entry is not None else []

    def mismatches(self) -> list[str]:
        """Entries whose payload differs from the closed form, in words; empty if there are none."""
        return [
            f"{client} {kind} {way}: {e.payload_bytes} bytes sent, {e.closed_form_bytes} by the closed form"
            for (client, kind, way), e in self.entries.items()
            if e.payload_bytes != e.closed_form_bytes
        ]

    def headers(self, clients: Collection[str]) -> dict[tuple[str, Direction], float]:
        """The share that headers have of some clients' messages, by kind and direction, where it is more than 2 %."""
        sent: dict[tuple[str, Direction], _Entry] = {}
        named = frozenset(clients)
        for (client, kind, way), entry in self.entries.items():
            if client in named:
                total = sent.setdefault((kind, way), _Entry())
                total.bytes += entry.bytes
                total.payload_bytes += entry.payload_bytes
        shares = {of: 1 - total.payload_bytes / total.bytes for of, total in sorted(sent.items())}
        return {of: share for of, share in shares.items() if share > LARGE}

    def coded(self, client: str, asked: str) -> int:
        """Numbers that went through a codec, of a client's messages that one key of ``wire`` is of."""
        return sum(
            entry.lost.numbers
            for kind, way in TYPES
            if _ASKED.get((kind, way), kind) == asked
            and (entry := self.entries.get((client, kind, way))) is not None
            and entry.lost is not None
        )

    def lost(self, clients: Collection[str]) -> dict[str, dict[str, float | None]]:
        """What codecs lost of some clients' messages, by kind; kinds without a codec are left out."""
        found: dict[str, Lost] = {}
        named = frozenset(clients)  # the first and the last round send to all
        for (client, kind, way), entry in sorted(self.entries.items(), key=lambda item: item[0]):
            if entry.lost is not None and client in named:
                asked = _ASKED.get((kind, way), kind)
                found[asked] = found.get(asked, Lost()) + entry.lost
        return {kind: found[kind].figures() for kind in sorted(found)}

    def records(self, round_number: int) -> list[dict[str, object]]:
        """Lines for messages.jsonl, in an order that does not depend on which client answered first."""
        return [
            {
                "round": round_number,
                "client": client,
                "kind": kind,
                "direction": way,
                **{name: getattr(entry, name) for name in _COUNTED if name != "sizes"},
                **(entry.lost.figures() if entry.lost is not None else {}),
            }
            for (client, kind, way), entry in sorted(self.entries.items(), key=lambda item: item[0])
        ]
