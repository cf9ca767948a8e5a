"""What clients are sent of their groups, and the check that they hold it; those that are alike are looked at once."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from atlas_cli.errors import during
from atlas_cli.federation.client_state.member import Member, Standing, by_standing
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


def deliver(federation: Federation, clients: Collection[str], ledger: Ledger) -> None:
    """Send the current group adapter to clients that are behind; moments of replaced values are reset.

    Of offloaded clients that stand alike, one is brought in, and the others then stand as it does.
    """
    aggregator, offload, members = federation.aggregator, federation.offload, federation.aggregator.members
    given: dict[Hashable, _Delivered] = {}
    seen: dict[str, list[Message]] = {}  # by client, where messages are watched
    for standing, names in by_standing(members, clients).items():
        if not aggregator.is_behind(names[0]):
            continue
        alike = None if standing.stored is None or aggregator.method.SELECTS else _alike(federation, standing, names[0])
        for place, client in enumerate(names):
            if alike is not None and alike in given:
                given[alike].others.extend(names[place:])
                break
            sent = list[Message]()
            counted = Ledger(sent.append if ledger.watch is not None else None)
            with during(f"client {client}"), federation.at_hand([client]):
                federation.clients[client].forget_moments(aggregator.deliver(client, counted))
            account = counted.accounts.get(client)
            if account is not None:
                ledger.add(account, [client])
            seen[client] = sent
            if alike is not None:
                given[alike] = _Delivered(members[client], account, sent)
    for found in given.values():
        if offload is not None:
            offload.share(found.others, found.member.standing)
        if found.account is not None:
            ledger.add(found.account, found.others)
        seen |= dict.fromkeys(found.others if ledger.watch is not None else (), found.messages)
    for client in clients if ledger.watch is not None else ():
        ledger.see(seen.get(client, ()), client)


def _alike(federation: Federation, standing: Standing, client: str) -> Hashable:
    """What a delivery to an offloaded client depends on."""
    assert standing.stored is not None
    own = standing.task_group, standing.cluster, standing.compact, standing.kind, standing.version
    return *standing.stored.parts, id(federation.base_of(client)), *own


def require_delivered(federation: Federation, clients: Collection[str], *, anew: bool = False) -> None:
    """Check by hash that clients hold exactly what was delivered, while they are not training.

    A client is checked before and after each of its rounds and when its own model was scored, and all are checked after
    the last round. Offloaded clients that share a state are checked once for each delivery that it should be.

    Args:
        anew: hash everything again, even if no write was detected since the last time; states in the store, too.
    """
    aggregator, offload = federation.aggregator, federation.offload
    if not aggregator.exchanges:
        return
    hashed: set[str] = set()
    for standing, names in by_standing(aggregator.members, clients).items():
        if offload is None or standing.stored is None:
            for client in names:
                aggregator.check_held(client, anew=anew)
            continue
        if anew and standing.stored.exchanged not in hashed:
            offload.store.check(standing.stored.exchanged)
            hashed.add(standing.stored.exchanged)
        aggregator.check_held(names[0])
