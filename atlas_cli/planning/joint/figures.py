"""The figures of a candidate, as its written config would be predicted to have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.devices.clock import round_time
from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.joint.candidate import Crew
from atlas_cli.planning.joint.costs import ClientCosts
from atlas_cli.planning.method import method_of


@dataclass(frozen=True)
class Figures:
    """What a candidate costs in a round in which every client takes part, with full batches of the longest examples.

    Attributes:
        memory: the largest predicted peak of a client; ``server``: the server's.
        seconds: of the round on the virtual clock; None if a device lacks a figure for it.
        joules: of all clients; None if the watts of one are not known.
        bytes_up, bytes_down: of all clients.
        leakage: the share of inputs that the measured attack recovers, in the mean over clients; None without figures.
        blocks: the blocks on a client, in the mean over clients; inputs are the harder to recover the more there are.
        changes: how many places along the listed values a client's settings that may change what is learned are from
            the file's, in the mean over clients.
    """

    memory: int
    server: int
    seconds: float | None
    joules: float | None
    bytes_up: int
    bytes_down: int
    leakage: float | None
    blocks: float
    changes: float

    @property
    def bytes(self) -> int:
        """Bytes both ways."""
        return self.bytes_up + self.bytes_down

    def costs(self) -> tuple[float, ...]:
        """What candidates are compared by, the less the better; what is not known is the same for all."""
        exposed = -self.blocks if self.leakage is None else self.leakage
        return (self.memory, self.seconds or 0.0, self.joules or 0.0, self.bytes, exposed, self.changes)


def clock(
    config: ExperimentConfig, costs: Mapping[Crew, ClientCosts], server: Device, order: Sequence[tuple[Crew, int]]
) -> tuple[float | None, float | None]:
    """Seconds of a round, and joules of all clients, from the costs of a client of each crew.

    Clients of a crew do the same at the same time, so that one of each stands for all on the clock. ``order`` has the
    clients in the order of the config, in which the clock sums: how many follow each other that are of a crew.
    """
    works = [work for each in costs.values() if (work := each.work) is not None]
    if len(works) < len(costs) or server.lacks("compute"):
        return None, None
    found = round_time(works, server, config.training.server_update, merge=bool(method_of(config).SENT))
    joules = [(found.clients[crew.clients[0]].joules, many) for crew, many in order]
    each = chain.from_iterable(repeat(j, many) for j, many in joules if j is not None)
    return found.seconds, None if any(j is None for j, _ in joules) else sum(each)


def peak_and_bytes(costs: Mapping[Crew, ClientCosts]) -> tuple[int, int, int]:
    """The largest peak of a client, and the bytes of all, up and down."""
    many: Sequence[tuple[int, ClientCosts]] = [(len(crew.clients), each) for crew, each in costs.items()]
    up, down = sum(n * each.bytes_up for n, each in many), sum(n * each.bytes_down for n, each in many)
    return max(each.memory for _, each in many), up, down
