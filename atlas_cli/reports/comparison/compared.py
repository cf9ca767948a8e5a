"""The runs that are compared, each with a short name, and what differs between them besides their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from atlas_cli.config.flat import NOT_COMPARED, differing
from atlas_cli.errors import ConfigError
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.summary import GroupSummary
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.outcomes import Outcomes, read_outcomes

SEED = "seed"
_MAX_NAMING = 2  # config keys that name runs, where they differ in no more
_DATA = ("origin", "sha256", "test_sha256", "validation_sha256", "train", "test", "classes")
_MODEL = ("name", "init", "sha256", "n_parameters")


@dataclass(frozen=True)
class ComparedRun:
    """A run with its records.

    Attributes:
        name: short, and of no other run that it is compared with.
        outcomes: what its models made of every example, where ``atlas evaluate`` wrote that.
    """

    name: str
    records: RunRecords
    outcomes: Sequence[Outcomes] = ()

    @property
    def path(self) -> str:
        """Its directory."""
        return self.records.path

    @cached_property
    def groups(self) -> dict[str, GroupSummary]:
        """Summaries by task group."""
        return {summary.task_group: summary for summary in self.records.summaries}


@dataclass(frozen=True)
class Differences:
    """By key, the value of each run, for the keys in which runs differ: of the config, of what computed (versions,
    machine, commit), of model and data, and of the code of plug-ins."""

    config: Mapping[str, Sequence[Any]]
    versions: Mapping[str, Sequence[Any]]
    model: Mapping[str, Sequence[Any]]
    data: Mapping[str, Sequence[Any]]
    code: Mapping[str, Sequence[Any]]


def read_runs(runs: Sequence[RunDirectory], going_on: Sequence[bool]) -> list[ComparedRun]:
    """The runs with all their records.

    Raises:
        ConfigError: one is given twice.
        ResourceError: a damaged record, or no manifest.
    """
    places = [run.path.resolve() for run in runs]
    if len(set(places)) < len(places):
        twice = next(run.path for i, run in enumerate(runs) if places[i] in places[:i])
        raise ConfigError(f"{twice} is given twice; a run differs from itself in nothing")
    records = [RunRecords.of_run(run, going_on=on) for run, on in zip(runs, going_on, strict=True)]
    names = _names(records)
    return [
        ComparedRun(name, each, list(read_outcomes(run))) for name, each, run in zip(names, records, runs, strict=True)
    ]


def differences_of(runs: Sequence[ComparedRun]) -> Differences:
    """What differs between runs."""
    manifests = [run.records.manifest for run in runs]
    inputs = [each.get("inputs") or {} for each in manifests]
    return Differences(
        config=differing([run.records.config for run in runs], but=NOT_COMPARED),
        versions=differing([_of(each, ("versions", "git", "device", "threads", "platform")) for each in manifests]),
        model=differing([_of(each.get("model") or {}, _MODEL) for each in manifests]),
        data=differing([{group: _of(facts, _DATA) for group, facts in run.records.data.items()} for run in runs]),
        code=differing([_of(each, ("code", "packages")) for each in inputs]),
    )


def alike_but_for_seeds(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """Runs together whose configs differ in nothing but ``seed``, in the order of their first."""
    found: list[list[ComparedRun]] = []
    for run in runs:
        for others in found:
            pair = [others[0].records.config, run.records.config]
            if not differing(pair, but=(*NOT_COMPARED, SEED)):
                others.append(run)
                break
        else:
            found.append([run])
    return found


def _of(facts: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: facts[key] for key in keys if facts.get(key) is not None}


def _names(records: Sequence[RunRecords]) -> list[str]:
    """By what they are set to where that is little and tells them apart, else by their folders, else by their paths."""
    differ = differing([each.config for each in records], but=NOT_COMPARED)
    settings = [
        ", ".join(f"{key.rpartition('.')[2]}={values[i]}" for key, values in differ.items())
        for i in range(len(records))
    ]
    by_folder, by_path = [each.folder for each in records], [each.path for each in records]
    if 0 < len(differ) <= _MAX_NAMING and len(set(settings)) == len(records):
        return settings
    return by_folder if len(set(by_folder)) == len(records) else by_path
