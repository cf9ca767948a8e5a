"""Which clients of a step are computed in one call of their process, and in which order the server takes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.data.collate import Batch
from atlas_cli.engines.passes import passes, server_shares
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation

Turn = tuple[str, ...]  # the clients that the server takes together


@dataclass(frozen=True, eq=False)
class Unit:
    """Clients of one process that are computed in one call: those of a shared pass, or one by itself.

    Attributes:
        when: the round and the step that it is of.
        batches: by client, in the order of the pass.
        shared: computed as one row of real tokens.
    """

    place: int
    when: tuple[int, int]
    batches: Mapping[str, Batch]
    shared: bool

    @property
    def clients(self) -> Turn:
        """In the order of the pass."""
        return tuple(self.batches)

    @property
    def shares(self) -> dict[str, float]:
        """What part of the computing is a client's, by its real tokens."""
        tokens = sum(batch.n_tokens for batch in self.batches.values())
        return {
            client: batch.n_tokens / tokens if tokens else 1 / len(self.batches)
            for client, batch in self.batches.items()
        }


def units_of(
    federation: Federation, clients: Iterable[str], when: tuple[int, int], place: Callable[[str], int]
) -> list[Unit]:
    """The units of a step.

    Args:
        clients: in the order in which the server takes them.
        place: the process of a client.
    """
    number, step = when
    overall = (number - 1) * federation.config.training.local_steps + step
    batches = {client: batch_of(federation, client, overall) for client in clients}
    found = []
    for together, shared in passes(federation, batches, place):
        for unit in [together] if shared else [[client] for client in together]:
            found.append(Unit(place(unit[0]), when, {client: batches[client] for client in unit}, shared))
    return found


def left_of(units: Sequence[Unit], clients: Collection[str]) -> list[Unit]:
    """The units without the clients that are not among these."""
    kept = [(unit, {c: batch for c, batch in unit.batches.items() if c in clients}) for unit in units]
    return [
        unit if len(batches) == len(unit.batches) else replace(unit, batches=batches)
        for unit, batches in kept
        if batches
    ]


def turns_of(training: TrainingConfig, units: Sequence[Unit], order: Sequence[str]) -> list[Turn]:
    """Whom the server takes, one turn after another; gradients are added up in this order, whoever is served first.

    Args:
        order: of the clients, with a sequential update.
    """
    if training.server_update == "sequential":
        return [(client,) for client in order]
    shares = server_shares(training)
    return [turn for unit in units for turn in ([unit.clients] if shares else [(client,) for client in unit.clients])]
