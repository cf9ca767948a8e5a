"""The figures of a candidate, as its written config would be predicted to have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.cuts.leakage import Leakage
from atlas_cli.planning.devices.clock import round_time
from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.joint.candidate import Candidate, Crew, Kind
from atlas_cli.planning.joint.costs import ClientCosts
from atlas_cli.planning.method import method_of


@dataclass(frozen=True)
class Figures:
    """What a candidate costs in a round in which every client takes part, with full batches of the longest examples.

    Attributes:
        memory: the largest predicted peak of a client.
        seconds: of the round on the virtual clock; None if a device lacks a figure for it.
        joules: of all clients; None if the watts of one are not known.
        bytes_up, bytes_down: of all clients.
        leakage: the largest share of inputs that the measured attack recovers at the cut; None without figures.
        cut: the split layer; inputs are the harder to recover the deeper it is.
        steps_away: of all clients, how far what may change what is learned is from the file.
    """

    memory: int
    seconds: float | None
    joules: float | None
    bytes_up: int
    bytes_down: int
    leakage: float | None
    cut: int
    steps_away: int

    @property
    def bytes(self) -> int:
        """Bytes both ways."""
        return self.bytes_up + self.bytes_down

    def costs(self) -> tuple[float, ...]:
        """What candidates are compared by, the less the better; what is not known is the same for all."""
        depth = -self.cut if self.leakage is None else self.leakage
        return (self.memory, self.seconds or 0.0, self.joules or 0.0, self.bytes, depth, self.steps_away)


def figures_of(
    config: ExperimentConfig,
    kinds: Sequence[Kind],
    costs: Mapping[Crew, ClientCosts],
    server: Device,
    candidate: Candidate,
    leakage: Leakage | None,
    steps_away: int,
) -> Figures:
    """The figures of a candidate from the costs of a client of each crew.

    Clients of a crew do the same at the same time, so that one of each stands for all on the clock.
    """
    crews = [crew for kind in kinds for crew in kind.crews]
    seconds, joules = _clock(config, crews, costs, server)
    return Figures(
        memory=max(costs[crew].memory for crew in crews),
        seconds=seconds,
        joules=joules,
        bytes_up=sum(len(crew.clients) * costs[crew].bytes_up for crew in crews),
        bytes_down=sum(len(crew.clients) * costs[crew].bytes_down for crew in crews),
        leakage=None if leakage is None else leakage.worst(candidate.shared.cut),
        cut=candidate.shared.cut,
        steps_away=steps_away,
    )


def _clock(
    config: ExperimentConfig, crews: Sequence[Crew], costs: Mapping[Crew, ClientCosts], server: Device
) -> tuple[float | None, float | None]:
    works = [work for crew in crews if (work := costs[crew].work) is not None]
    if len(works) < len(crews) or server.lacks("compute"):
        return None, None
    found = round_time(works, server, config.training.server_update, merge=bool(method_of(config).SENT))
    order = {spec.name: place for place, spec in enumerate(config.expanded_clients())}
    each = sorted((order[name], found.clients[crew.clients[0]].joules) for crew in crews for name in crew.clients)
    joules = [j for _, j in each]  # summed in the order of the config, as the clock does
    return found.seconds, None if None in joules else sum(j for j in joules if j is not None)
