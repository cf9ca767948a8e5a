"""The byte ledger of a round: every message by client, kind and direction, against the closed form of its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import cast, get_args

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
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
_COUNTED = ("messages", "bytes", "payload_bytes", "closed_form_bytes")


@dataclass(slots=True)
class Entry:
    """Counts of a client's messages of one kind in one direction, and what a codec lost of them."""

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

    def add(self, other: Entry) -> None:
        """Count the messages of another entry, too."""
        self.messages += other.messages
        self.bytes += other.bytes
        self.payload_bytes += other.payload_bytes
        self.closed_form_bytes += other.closed_form_bytes
        self.sizes += other.sizes
        self.lose(other.lost)


# equal is what is the same object, so that millions of clients can be told apart by it
@dataclass(slots=True, eq=False)
class Account:
    """A round's messages of one client, or of each of several clients of which all are the same.

    Attributes:
        entries: by kind and direction.
        bytes: serialised bytes by direction.
        shared: several clients may have it, so that it is only written to for all of them.
    """

    entries: dict[tuple[str, Direction], Entry] = field(default_factory=dict)
    bytes: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(DIRECTIONS, 0))
    shared: bool = False

    def in_order(self) -> list[tuple[tuple[str, Direction], Entry]]:
        """The entries in an order that does not depend on which message was first."""
        return sorted(self.entries.items(), key=lambda item: item[0])

    def lines(self) -> list[dict[str, object]]:
        """What lines of messages.jsonl say of it."""
        return [
            {
                "kind": kind,
                "direction": way,
                **{name: getattr(entry, name) for name in _COUNTED},
                **(entry.lost.figures() if entry.lost is not None else {}),
            }
            for (kind, way), entry in self.in_order()
        ]

    def together(self, other: Account | None = None) -> Account:
        """One with the messages of this and of another."""
        found = Account()
        for account in (self, other) if other is not None else (self,):
            found.grow(account)
        return found

    def grow(self, other: Account) -> None:
        """Count the messages of another, too."""
        for of, entry in other.entries.items():
            self.entries.setdefault(of, Entry()).add(entry)
        for way, size in other.bytes.items():
            self.bytes[way] += size


@dataclass
class Ledger:
    """Counts every message of a round by client, kind and direction.

    Each is entered with the payload that the closed form says it must have (from batch, hidden size, ranks and dtype,
    not from the tensors sent); the two must agree, which ``mismatches`` reports. Clients that are sent the same share
    an account, so that what is sent to a million of a kind is counted once.

    Attributes:
        watch: called with each message as it is counted, which is when it crosses the wire.
        accounts: by client with any message.
    """

    watch: Callable[[Message], None] | None = None
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def entries(self) -> dict[tuple[str, str, Direction], Entry]:
        """All entries, by client, kind and direction; as many as clients times kinds."""
        return {
            (client, *of): each for client, account in self.accounts.items() for of, each in account.entries.items()
        }

    def count(self, message: Message, closed_form: int) -> None:
        """Enter one message."""
        account = self.accounts.get(message.client)
        if account is None or account.shared:
            account = self.accounts[message.client] = Account() if account is None else account.together()
        entry = account.entries.setdefault((message.kind, message.direction), Entry())
        entry.messages += 1
        entry.bytes += message.bytes
        entry.payload_bytes += message.payload_bytes
        entry.closed_form_bytes += closed_form
        entry.sizes.append(message.bytes)
        entry.lose(message.lost if isinstance(message, HiddenStates | NamedTensors) else None)
        account.bytes[message.direction] += message.bytes
        if self.watch is not None:
            self.watch(message)

    def add(self, counted: Account, clients: Iterable[str]) -> None:
        """Count the messages of an account for each of some clients, which share accounts from then on.

        They are not watched (``see``).
        """
        names = list(clients)
        if self.accounts.keys().isdisjoint(names):
            new = counted.together()
            new.shared = True
            self.accounts.update(dict.fromkeys(names, new))
            return
        if 1 < len(names) > len(self.accounts) // 2:  # of a million none is looked up by name
            first = self.accounts.get(names[0])
            if first is not None and names == [name for name, account in self.accounts.items() if account is first]:
                first.grow(counted)
                return
        before = list(map(self.accounts.get, names))
        grown: dict[Account | None, Account] = {}
        for account in dict.fromkeys(before):
            grown[account] = counted.together() if account is None else account.together(counted)
            grown[account].shared = True
        self.accounts.update(zip(names, map(grown.__getitem__, before), strict=True))

    def see(self, messages: Iterable[Message], client: str) -> None:
        """Let messages that are counted with ``add`` be watched as those of a client."""
        if self.watch is not None:
            for message in messages:
                self.watch(message.to(client))

    def total(self, direction: Direction, clients: Iterable[str]) -> int:
        """Serialised bytes of some clients in one direction."""
        return self.totals(clients)[direction]

    def totals(self, clients: Iterable[str] | None = None) -> dict[Direction, int]:
        """Serialised bytes of some clients, or of all, by direction."""
        found = Counter(self.accounts.values()) if clients is None else self._accounts_of(set(clients))
        counts = found.items()
        return {way: sum(account.bytes[way] * count for account, count in counts) for way in DIRECTIONS}

    def entry(self, client: str, kind: str, direction: Direction) -> Entry | None:
        """A client's messages of one kind in one direction; None if there are none."""
        account = self.accounts.get(client)
        return None if account is None else account.entries.get((kind, direction))

    def sizes(self, client: str, kind: str, direction: Direction) -> list[int]:
        """Serialised bytes of each of a client's messages of one kind, in the order in which they were sent."""
        entry = self.entry(client, kind, direction)
        return entry.sizes if entry is not None else []

    def mismatches(self) -> list[str]:
        """Entries whose payload differs from the closed form, in words; empty if there are none.

        Of clients that share an account the first is named.
        """
        firsts: dict[Account, str] = {}
        for client, account in self.accounts.items():
            firsts.setdefault(account, client)
        return [
            f"{client} {kind} {way}: {e.payload_bytes} bytes sent, {e.closed_form_bytes} by the closed form"
            for account, client in firsts.items()
            for (kind, way), e in account.entries.items()
            if e.payload_bytes != e.closed_form_bytes
        ]

    def headers(self, clients: Collection[str]) -> dict[tuple[str, Direction], float]:
        """The share that headers have of some clients' messages, by kind and direction, where it is more than 2 %."""
        sent: dict[tuple[str, Direction], Entry] = {}
        for account, count in self._accounts_of(frozenset(clients)).items():
            for of, entry in account.entries.items():
                total = sent.setdefault(of, Entry())
                total.bytes += entry.bytes * count
                total.payload_bytes += entry.payload_bytes * count
        shares = {of: 1 - total.payload_bytes / total.bytes for of, total in sorted(sent.items())}
        return {of: share for of, share in shares.items() if share > LARGE}

    def coded(self, client: str, asked: str) -> int:
        """Numbers that went through a codec, of a client's messages that one key of ``wire`` is of."""
        return sum(
            entry.lost.numbers
            for kind, way in TYPES
            if _ASKED.get((kind, way), kind) == asked
            and (entry := self.entry(client, kind, way)) is not None
            and entry.lost is not None
        )

    def lost(self, clients: Collection[str]) -> dict[str, dict[str, float | None]]:
        """What codecs lost of some clients' messages, by kind; kinds without a codec are left out."""
        coded = {
            account: [(_ASKED.get(of, of[0]), entry.lost) for of, entry in account.in_order() if entry.lost]
            for account in set(self.accounts.values())
        }
        found: dict[str, Lost] = {}
        if any(coded.values()):
            named = frozenset(clients)
            for client in sorted(named & self.accounts.keys()):  # one by one: sums are rounded, in this order
                for asked, lost in coded[self.accounts[client]]:
                    found[asked] = found.get(asked, Lost()) + lost
        return {kind: found[kind].figures() for kind in sorted(found)}

    def records(self, round_number: int, clients: Iterable[str] | None = None) -> list[dict[str, object]]:
        """Lines for messages.jsonl, in an order that does not depend on which client answered first.

        Args:
            clients: None: all.
        """
        return [
            {"round": round_number, "client": client, **line}
            for client in sorted(self.accounts if clients is None else self.accounts.keys() & clients)
            for line in self.accounts[client].lines()
        ]

    def _accounts_of(self, clients: Collection[str]) -> Counter[Account]:
        """The accounts of some clients, each once, with the number of these clients that have it."""
        counts = Counter(map(self.accounts.get, clients))
        counts.pop(None, None)
        return cast("Counter[Account]", counts)
