"""Privacy against use: what each defence leaves of a metric, against what the worst attack finds under it.

A run counts with its worst attack at the upper end of its 95 % interval, as a share of what an attack could gain over
chance, and a setting with its worst run: whoever deploys it has one run, and attackers choose their attack.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atlas_cli.reports.sheets import Cell, Column, Sheet
from atlas_cli.statistics import Ends, over_seeds

NONE = "no defence"
BROKEN = 0.95  # of what is found without a defence
_NOTES = (
    "low, high: 95 % over seeds (Student's t)",
    "worst attack: of all attacks and seeds; found: its figure; upper: the upper end of its 95 % interval, as a share "
    "of what it could gain over chance (0: as chance, 1: all)",
    "still found: upper as a share of what the best attack finds without a defence, at the lower end of its interval "
    "in the seed where it finds the least; broken: 95 % or more",
    "loss: of the metric against no defence, in the mean of paired seeds; shown where its 95 % interval over seeds is "
    "above 0",
    "MB: of all messages of the task group, both ways and with set-up",
    "an attack that nobody tried may find more",
)


@dataclass(frozen=True)
class Attacked:
    """A run and what attacks found in it.

    Attributes:
        metrics: by task group, the name of its metric, which way is better, and its value after the last round.
        least: by task group, the metric of who always says the largest class, where that is known.
        attacks: figures as audit.json has them.
        epsilon: by task group and channel that a mechanism bounds.
        sent: by task group, the bytes of all its messages, both ways.
    """

    seed: int
    run: str
    metrics: Mapping[str, tuple[str, str, float]]
    least: Mapping[str, float]
    attacks: Sequence[Mapping[str, Any]]
    epsilon: Mapping[str, Mapping[str, float]]
    sent: Mapping[str, int]

    @property
    def worst(self) -> Mapping[str, Any]:
        """The attack with the largest advantage."""
        return max(self.attacks, key=lambda each: float(each["advantage"]))

    @property
    def surely_found(self) -> float:
        """What the best attack finds at the lower end of its interval, as a share of what it could gain."""
        return max(_share(each, "low") for each in self.attacks)


@dataclass(frozen=True)
class Point:
    """A setting in a task group.

    Attributes:
        defence, strength: its names; of no defence, the second is empty.
        control: it claims to defend nothing.
        seeds: those of its runs; ``runs``: their directories.
        value: the mean of the metric; ``interval``: 95 % over seeds, None of one run or where all are equal.
        loss: the mean of what is lost against no defence in the same seeds; ``loss_interval``: over seeds.
        attack: the worst; ``found``: its figure; ``lower``, ``upper``: the ends of its interval as shares of what it
            could gain over chance; ``floor``: the share of who knows only what is common, where that is known.
        epsilon: the largest by channel that a mechanism bounds.
        still_found: ``upper`` as a share of what the best attack surely finds without a defence, at most 1; None of no
            defence itself.
        loss_shown: the loss is above 0 beyond its interval; None where there are too few seeds to tell.
        least: the metric of who always says the largest class, where that is known.
        sent: bytes of all messages of the task group, both ways, in the mean over seeds.
    """

    task_group: str
    metric: str
    better: str
    defence: str
    strength: str
    control: bool
    seeds: Sequence[int]
    runs: Sequence[str]
    value: float
    interval: Ends | None
    loss: float | None
    loss_interval: Ends | None
    attack: str
    found: float
    lower: float
    upper: float
    floor: float | None
    epsilon: Mapping[str, float]
    still_found: float | None
    loss_shown: bool | None
    least: float | None
    sent: float

    @property
    def broken(self) -> bool:
        """Whether attacks find nearly as much as without it."""
        return self.still_found is None or self.still_found >= BROKEN

    @property
    def verdict(self) -> str:
        """In words, for the table."""
        if not self.defence:
            return NONE
        if self.still_found is None:
            return "no run without a defence to compare with"
        found = f"{'broken: ' if self.broken else ''}{100 * self.still_found:.0f} % still found"
        if self.loss_shown is None:
            return f"{found}; too few seeds for a loss"
        return f"{found}, {'at a loss' if self.loss_shown else 'no loss shown'}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "verdict": self.verdict}


def frontier_points(settings: Sequence[tuple[str, str, bool, Sequence[Attacked]]]) -> list[Point]:
    """The points of all task groups.

    Args:
        settings: defence, strength, whether it is a control, and its attacked runs; without any defence first. Those
            without runs are left out.
    """
    undefended = {each.seed: each for each in settings[0][3]}
    there = [each for each in settings if each[3]]
    groups = dict.fromkeys(group for *_, runs in there for run in runs for group in run.metrics)
    return [_point(group, *setting, undefended) for group in groups for setting in there]


def _point(
    group: str,
    defence: str,
    strength: str,
    control: bool,
    runs: Sequence[Attacked],
    undefended: Mapping[int, Attacked],
) -> Point:
    metric, better, _ = runs[0].metrics[group]
    values = [run.metrics[group][2] for run in runs]
    worst = max((run.worst for run in runs), key=lambda each: float(each["advantage"]))
    upper = float(worst["advantage"])
    sign = -1.0 if better == "lower" else 1.0
    lost = [
        sign * (undefended[run.seed].metrics[group][2] - run.metrics[group][2])
        for run in runs
        if defence and run.seed in undefended
    ]
    ends = over_seeds(lost)
    surely = min((each.surely_found for each in undefended.values()), default=0.0)
    channels = dict.fromkeys(channel for run in runs for channel in run.epsilon.get(group, {}))
    return Point(
        task_group=group,
        metric=metric,
        better=better,
        defence=defence,
        strength=strength,
        control=control,
        seeds=[run.seed for run in runs],
        runs=[run.run for run in runs],
        value=statistics.fmean(values),
        interval=over_seeds(values),
        loss=statistics.fmean(lost) if lost else None,
        loss_interval=ends,
        attack=worst["attack"],
        found=worst["value"],
        lower=_share(worst, "low"),
        upper=upper,
        floor=None if worst["floor"] is None else _share(worst, "floor"),
        epsilon={channel: max(run.epsilon[group][channel] for run in runs) for channel in channels},
        still_found=min(1.0, upper / surely) if defence and surely > 0 else None,
        loss_shown=None if len(lost) < 2 else min(ends or lost) > 0,
        least=max((run.least[group] for run in runs if group in run.least), default=None),
        sent=statistics.fmean(run.sent[group] for run in runs),
    )


def _share(figure: Mapping[str, Any], key: str) -> float:
    """A value of a figure as a share of what an attack could gain over chance, 0 to 1."""
    return min(1.0, max(0.0, (figure[key] - figure["chance"]) / (figure["best"] - figure["chance"])))


def frontier_sheet(points: Sequence[Point], delta: float) -> Sheet:
    """A row for each setting of each task group, in the order of the file."""
    columns = [Column("task group", spare=2), Column("defence"), Column("strength"), Column("seeds", True, 5)]
    columns += [Column(points[0].metric if len({p.metric for p in points}) == 1 else "metric", True)]
    columns += [Column("low", True, 4), Column("high", True, 4), Column("loss", True, 3), Column("epsilon", True, 1)]
    columns += [Column("worst attack", spare=1), Column("found", True, 3), Column("upper", True)]
    columns += [Column("MB", True, 5), Column("what it does")]
    notes = [*_NOTES]
    if any(point.control for point in points):
        notes.insert(0, "control: no defence, and there for comparison")
    if any(point.epsilon for point in points):
        notes.insert(0, f"epsilon: of the channel that it names, at delta {delta:g}; a dash: nothing bounds it")
    return Sheet("frontier", "Privacy against use", columns, [_row(point) for point in points], notes)


def _row(point: Point) -> Sequence[Cell]:
    low, high = point.interval or (None, None)
    name = f"control: {point.defence}" if point.control else point.defence or NONE
    of_group = (point.task_group, name, point.strength or None, len(point.seeds))
    attack = (point.attack, point.found, point.upper, point.sent / 1e6)
    return *of_group, point.value, low, high, point.loss, epsilon_text(point) or None, *attack, point.verdict


def epsilon_text(point: Point) -> str:
    """``3,540 (activations)``; empty where nothing bounds it."""
    return ", ".join(f"{value:,.3g} ({channel})" if value < 100 else f"{value:,.0f} ({channel})"
                     for channel, value in point.epsilon.items())  # fmt: skip
