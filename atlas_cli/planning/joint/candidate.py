"""A candidate: the settings that a plan would choose, and the config that says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.devices.devices import Device, devices_by_key
from atlas_cli.planning.joint.space import CUT, KINDS, Option, Shared, applied, coded
from atlas_cli.planning.plan import ClientPlan, Plan


@dataclass(frozen=True, eq=False)  # there may be a million of them, whose names are not to be compared
class Crew:
    """Clients of one entry of the config that are equally slow: ``name`` of the entry, and their own names."""

    name: str
    device: Device | None
    slowdown: float
    clients: Sequence[str]


@dataclass(frozen=True)
class Kind:
    """Clients that share a choice: those of one device, or of one entry of the config."""

    name: str
    crews: tuple[Crew, ...]

    @property
    def clients(self) -> int:
        """How many there are."""
        return sum(len(crew.clients) for crew in self.crews)


@dataclass(frozen=True)
class Candidate:
    """The settings of all clients, and those of each kind, in the order of the kinds."""

    shared: Shared
    options: tuple[Option, ...]

    @property
    def cuts(self) -> list[int]:
        """The split layers of clients, the shallowest first."""
        return sorted({dict(option)[CUT] for option in self.options})

    @property
    def cut(self) -> int:
        """The shallowest of them."""
        return self.cuts[0]

    def settings(self, config: ExperimentConfig, kinds: tuple[Kind, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The keys of the config to set, as paths, with their values; those that are so already are left out."""
        found: dict[tuple[str, ...], Any] = {
            ("model", CUT): self.cut,
            ("training", "batch_size"): self.shared.batch,
        }
        wire = coded(config, self.shared.codec)
        changed = [kind for kind in KINDS if getattr(wire, kind) != getattr(config.wire, kind)]
        found |= {("wire", kind): {"codec": self.shared.codec} for kind in changed}
        for kind, option in zip(kinds, self.options, strict=True):
            for crew in kind.crews:
                own = applied(config, crew.name, option)
                found |= {("clients", crew.name, key): value for key, value in own.items()}
        for path, value in found.items():
            if value != (self.cut if self._follows(config, path) else _said(config, path)):
                yield path, value

    def _follows(self, config: ExperimentConfig, path: tuple[str, ...]) -> bool:
        """Whether a path is the cut of clients that have that of the model."""
        return path[0] == "clients" and path[2] == CUT and config.clients[path[1]].split_layer is None


def _said(config: ExperimentConfig, path: tuple[str, ...]) -> Any:
    """What the config has at a path; of a client also what it takes from other sections."""
    section: Any = config
    for name in path[:-1]:
        section = section[name] if isinstance(section, dict) else getattr(section, name)
    value = getattr(section, path[-1])
    if value is not None or path[0] != "clients":
        return value
    return config.lora.rank if path[-1] == "rank" else getattr(config.model, path[-1], None)


def kinds_of(plan: Plan, by: str) -> tuple[Kind, ...]:
    """The kinds of clients of a plan.

    Args:
        by: "device": clients of one device are of one kind, those without any too; "client": those of one entry.
    """
    devices, kinds = devices_by_key(plan.config), dict[str, list[Crew]]()
    for client in plan.kinds:
        name, device = client.key.removeprefix("clients."), devices.get(client.key)
        kind = name if by == "client" else (device.name if device is not None else "no device")
        crews = (Crew(name, device, factor, names) for factor, names in _by_slowdown(plan, client).items())
        kinds.setdefault(kind, []).extend(crews)
    return tuple(Kind(name, tuple(found)) for name, found in kinds.items())


def _by_slowdown(plan: Plan, kind: ClientPlan) -> Mapping[float, Sequence[str]]:
    """The names of the clients of an entry of the config by the factor of their times."""
    names, slow = plan.names_of(kind), plan.config.faults.slow
    usual = slow.get(kind.key.removeprefix("clients."), 1.0)
    if not any(name in names for name in slow):
        return {usual: names}
    found: dict[float, list[str]] = {}
    for name in names:
        found.setdefault(slow.get(name, usual), []).append(name)
    return found
