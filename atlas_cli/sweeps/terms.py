"""What a sweep's ``--protocol`` asks for, and the leaderboard that it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_cli.config.grid import Combination
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.devices.devices import client_devices, server_device
from atlas_cli.reports.protocols.budget import CLOCK, EXAMPLE, parse_budget
from atlas_cli.reports.protocols.leaderboard import PERTURBED, Entry, Goal, Run, cost, quality, robustness, setting_of
from atlas_cli.reports.protocols.sheets import leaderboard_pictures, leaderboard_record, leaderboard_sheet
from atlas_cli.reports.sheets import Sheet
from atlas_cli.suggest import did_you_mean
from atlas_cli.tasks import load


@dataclass(frozen=True)
class Leaderboard:
    """The entries of a protocol with what it was asked for."""

    terms: Terms
    entries: Sequence[Entry]

    def sheet(self) -> Sheet:
        """As a table."""
        return leaderboard_sheet(self.terms.protocol, self.entries, self.terms.said)

    def pictures(self) -> Iterator[tuple[str, str]]:
        """By the name of their files."""
        return leaderboard_pictures(self.terms.protocol, self.entries)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        terms = self.terms
        return leaderboard_record(terms.protocol, self.entries, terms.budget, terms.goal, terms.baseline)


@dataclass(frozen=True)
class Terms:
    """A protocol with its budget in seconds, joules and bytes, what is to be reached, and undisturbed values by axis.

    ``baseline``: the setting to which others have a ratio; ``said``: the budget and the targets, as they were given.
    """

    protocol: str
    budget: Mapping[str, float]
    goal: Goal | None
    clean: Mapping[str, str]
    baseline: str | None
    said: str

    def leaderboard(self, runs: Sequence[Run]) -> Leaderboard:
        """That of some finished runs."""
        if self.protocol == "cost-to-target" and self.goal is not None:
            return Leaderboard(self, cost(runs, self.goal, self.baseline))
        if self.protocol == "robustness":
            return Leaderboard(self, robustness(runs, self.budget, self.clean, self.goal))
        return Leaderboard(self, quality(runs, self.budget))


def terms_of(
    protocol: str,
    budget: str | None,
    target: Sequence[str] | None,
    held: int | None,
    baseline: str | None,
    combinations: Sequence[Combination],
    configs: Sequence[ExperimentConfig],
) -> Terms:
    """The terms of a protocol.

    Raises:
        ConfigError: an option is missing, or is of another protocol; a limit or a metric that runs will not have.
    """
    targets = target or ()
    if protocol == "quality-under-budget" and budget is None:
        raise ConfigError(f"quality-under-budget needs one; add e.g. --budget {EXAMPLE!r}", key="--budget")
    if protocol == "cost-to-target" and not targets:
        raise ConfigError("cost-to-target needs one; add e.g. --target accuracy=0.85", key="--target")
    if protocol == "cost-to-target" and budget is not None:
        raise ConfigError("cost-to-target has none; leave it out, or use quality-under-budget", key="--budget")
    if protocol == "quality-under-budget" and targets:
        raise ConfigError("is of cost-to-target and robustness; leave it out", key="--target")
    if held is not None and not targets:
        raise ConfigError("is of a target; add e.g. --target accuracy=0.85, or leave it out", key="--held")
    if protocol != "cost-to-target" and baseline is not None:
        raise ConfigError(f"is of cost-to-target, and not of {protocol}; leave it out", key="--baseline")
    limits = parse_budget(budget)
    if on_clock := [name for name in limits if name in CLOCK]:
        for config in configs:
            _require_clock(config, on_clock)
    first = combinations[0].values
    clean = {key: value for key, value in first.items() if key.startswith(PERTURBED)}
    if protocol == "robustness" and not clean:
        raise ConfigError(
            "robustness needs an axis of faults, devices or a deadline, with the undisturbed value first; add e.g. "
            "faults.drop=0,0.3",
            key="--protocol",
        )
    said = ", ".join(part for part in (budget, *targets) if part)
    if held is not None and held > 1:
        said += f", held for {held} evaluations"
    goal = Goal(dict(_target(text, configs) for text in targets), held or 1) if targets else None
    return Terms(protocol, limits, goal, clean, None if baseline is None else _setting(baseline, combinations), said)


def _setting(text: str, combinations: Sequence[Combination]) -> str:
    """A setting of the sweep, as leaderboards call it."""
    known = list(dict.fromkeys(setting_of(each.values) for each in combinations))
    if text not in known:
        raise ConfigError(
            f"{text!r} is no setting of this sweep; it has: {', '.join(map(repr, known))}", key="--baseline"
        )
    return text


def _require_clock(config: ExperimentConfig, wanted: Sequence[str]) -> None:
    """Refuse a limit of time or energy where rounds have no such figure on the virtual clock."""
    figures = ("compute", "uplink", "downlink", *(("watts",) if "energy" in wanted else ()))
    devices = client_devices(config)
    for spec in config.expanded_clients():
        device = devices.get(spec.name)
        lacking = ["device"] if device is None else device.lacks(*figures)
        if config.mode != "split-federated":
            lacking = [f"virtual clock with mode: {config.mode}"]
        if lacking:
            raise ConfigError(
                f"{' and '.join(wanted)}: client {spec.name} has no {' and no '.join(lacking)}; add it, or limit bytes",
                key="--budget",
            )
    if server_device(config).lacks("compute"):
        raise ConfigError(f"{' and '.join(wanted)}: the server's device has no compute; add it", key="--budget")


def _target(text: str, configs: Sequence[ExperimentConfig]) -> tuple[str, float]:
    metric, _, value = text.partition("=")
    groups = [group for config in configs for group in config.task_groups.values()]
    known = {group.metric or load(group.task).primary_metric for group in groups}
    try:
        goal = float(value)
    except ValueError:
        goal = float("nan")
    if goal != goal or goal in (float("inf"), float("-inf")):
        raise ConfigError(f"{text!r} must be METRIC=VALUE, e.g. accuracy=0.85", key="--target")
    if metric not in known:
        hint = f"{did_you_mean(metric, known)} (they have: {', '.join(sorted(known))})"
        raise ConfigError(f"{metric} is no primary metric of these runs{hint}", key="--target")
    return metric, goal
