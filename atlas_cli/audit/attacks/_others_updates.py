"""What a client learns of the others' updates of a round from what it is delivered, and what it sent itself.

Where a merge is a mean of factors by weight, the mean of the others is

    (delivered - w own) / (1 - w)

with w the client's share of the weights: of two clients of equal rank, exactly what the other one sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, Context, Factors, Update, absorb, release, scales_of
from atlas_cli.audit.evidence import UNSPLIT, Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.audit.uploads import uploaded
from atlas_cli.wire.messages import Activations, AdapterUpdate, Delivery

LEFT = 1e-4  # of a merge's largest change, that rounding may leave unexplained


@dataclass(frozen=True)
class OthersUpdate:
    """The mean of the others' updates of a round, as one client computes it.

    Attributes:
        observer: that client; clients: the others whose updates were merged.
        before: the adapters that all had been delivered; after: the mean, by weight, of what the others sent, by name.
    """

    observer: str
    round: int
    clients: tuple[str, ...]
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def others_updates(evidence: Evidence) -> Iterator[OthersUpdate]:
    """The updates that clients recover, of each recorded round after whose merge they were sent the result.

    Raises:
        Inapplicable: no delivery after a merge was recorded, or merges are no means that can be taken apart.
    """
    federation = evidence.federation
    if federation.config.mode != "split-federated":
        raise Inapplicable(UNSPLIT)
    if federation.config.training.asynchrony is not None:
        raise Inapplicable("clients begin from different versions (training.asynchrony)")
    took_part: dict[int, list[str]] = {}
    for line in evidence.run.read_lines("clients.jsonl"):
        if line["participated"]:
            took_part.setdefault(line["round"], []).append(line["client"])
    members, found = federation.aggregator.members, False
    for number in sorted({m.round for m in evidence.messages if m.type is AdapterUpdate}):
        for observer in took_part.get(number, ()):
            group = members[observer].group
            others = tuple(c for c in took_part[number] if c != observer and members[c].group == group)
            if others and _delivered_after(evidence, observer, number):
                found = True
                yield _recovered(evidence, observer, others, number)
    if not found:
        raise Inapplicable("no delivery to a client after a merge with others was recorded")


def _delivered_after(evidence: Evidence, client: str, number: int) -> bool:
    """Whether what a client was sent after the merge of a round, and what it had sent before, were recorded."""
    own = [m for m in evidence.messages if (m.client, m.round) == (client, number)]
    last = max((m.number for m in own if m.type is Activations), default=0)
    kinds = {m.type for m in own if m.number > last}
    return {Delivery, AdapterUpdate} <= kinds


def _recovered(evidence: Evidence, observer: str, others: tuple[str, ...], number: int) -> OthersUpdate:
    aggregator = evidence.federation.aggregator
    members = aggregator.members
    if any(members[client].ranks != members[observer].ranks for client in others):
        raise Inapplicable("clients of a group have unequal ranks, and what padding adds is mixed in")
    scales = scales_of(members[observer].adapters)
    before = {n: t.cpu() for n, t in evidence.deliveries.at_round_start(observer, number)[0].items()}
    after = {n: t.cpu() for n, t in evidence.deliveries.at_round_start(observer, number + 1)[0].items()}
    (message,) = (m for m in evidence.messages if (m.client, m.round, m.type) == (observer, number, AdapterUpdate))
    own = before | uploaded(evidence.federation, message, before)
    weights = {client: members[client].weight for client in (observer, *others)}
    share = weights[observer] / sum(weights.values())
    mean = {name: ((after[name].double() - share * own[name]) / (1 - share)).float() for name in before}
    updates = [Update(observer, share, absorb(own, scales)), Update("others", 1 - share, absorb(mean, scales))]
    context = Context(
        members[observer].group, number, aggregator.group_weights.by_rank(members[observer].group, ()), number
    )
    merged = aggregator.method.anew().aggregate(absorb(before, scales), updates, context)
    made = release(_as_held(merged.adapters, absorb(before, scales)), scales)
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    left = max(float((made[name] - after[name]).abs().max()) for name in before)
    if merged.base or left > LEFT * moved:
        method = evidence.federation.config.aggregation.method
        raise Inapplicable(
            f"a merge by {method} is no mean of what clients send, or was changed afterwards: from it and a client's "
            "own update that of others does not follow"
        )
    return OthersUpdate(observer, number, others, before, mean)


def _as_held(merged: Adapters, held: Adapters) -> dict[str, Factors]:
    return {path: Factors(merged[path].A[: f.rank], merged[path].B[:, : f.rank]) for path, f in held.items()}
