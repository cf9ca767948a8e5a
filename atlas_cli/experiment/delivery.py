"""What clients are sent of their groups, and the check that they hold it; those that are alike are looked at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from atlas_cli.errors import during
from atlas_cli.federation.client_state.member import Member, StoredState
from atlas_cli.federation.federation import Federation
from atlas_cli.wire.ledger import Account, Ledger
from atlas_cli.wire.messages import Message


@dataclass(frozen=True)
class _Delivered:
    """A delivery to an offloaded client, and the ``others`` that it is one to as well."""

    member: Member
    account: Account | None
    messages: list[Message]
    others: list[str] = field(default_factory=list)


def deliver(federation: Federation, clients: Iterable[str], ledger: Ledger) -> None:
    """Send the current group adapter to clients that are behind; moments of replaced values are reset.

    Of offloaded clients that share a state, one is brought in, and the others share its new state.
    """
    aggregator, offload = federation.aggregator, federation.offload
    kinds: dict[tuple[object, ...], tuple[StoredState, tuple[object, ...] | None]] = {}
    given: dict[tuple[object, ...], _Delivered] = {}
    for client in clients:
        member, alike = aggregator.members[client], None
        if (stored := member.stored) is not None:  # of a million this much is looked at one by one
            # clients share a state only if they are of one task group and hold the same part of one base
            kind: tuple[object, ...] = id(stored), member.version, member.cluster, member.compact
            if member.coding is not None:
                kind = (*kind, federation.plan.by_name[client].key)  # the clients of one key have one codec
            if kind not in kinds:
                kinds[kind] = stored, _alike(federation, client) if aggregator.is_behind(client) else None
            alike = kinds[kind][1]
            if alike is None:
                continue
            if aggregator.method.SELECTS:
                alike = (*alike, client)
            if alike in given:
                given[alike].others.append(client)
                ledger.see(given[alike].messages, client)
                continue
        elif not aggregator.is_behind(client):
            continue
        sent = list[Message]()
        counted = Ledger(sent.append if ledger.watch is not None else None)
        with during(f"client {client}"), federation.at_hand([client]):
            federation.clients[client].forget_moments(aggregator.deliver(client, counted))
        account = counted.accounts.get(client)
        if account is not None:
            ledger.add(account, [client])
        ledger.see(sent, client)
        if alike is not None:
            given[alike] = _Delivered(member, account, sent)
    for found in given.values():
        if offload is not None:
            offload.share(found.others, found.member)
        federation.last_used.record(found.others)
        if found.account is not None:
            ledger.add(found.account, found.others)


def _alike(federation: Federation, client: str) -> tuple[object, ...]:
    """What a delivery to an offloaded client depends on."""
    member = federation.aggregator.members[client]
    assert member.stored is not None
    base, group = id(federation.base_of(client)), (member.group, member.part, member.version)
    alike = (*member.stored.parts, base, *group, member.compact)
    return alike if member.coding is None else (*alike, federation.plan.by_name[client].key)


def require_delivered(federation: Federation, clients: Iterable[str], *, anew: bool = False) -> None:
    """Check by hash that clients hold exactly what was delivered, while they are not training.

    A client is checked before and after each of its rounds and when its own model was scored, and all are checked after
    the last round. Offloaded clients that share a state are checked once for each delivery that it should be.

    Args:
        anew: hash everything again, even if no write was detected since the last time; states in the store, too.
    """
    aggregator, offload = federation.aggregator, federation.offload
    if not aggregator.exchanges:
        return
    checked: set[tuple[str, str | None]] = set()
    for client in clients:
        stored = (member := aggregator.members[client]).stored
        if offload is not None and stored is not None:
            if (alike := (stored.exchanged, member.delivered_sha256)) in checked:
                continue
            checked.add(alike)
            if anew:
                offload.store.check(stored.exchanged)
        aggregator.check_held(client, anew=anew)
