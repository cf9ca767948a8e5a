"""Which round of a run a command is about, from what is typed: a number, or ``best``."""

from __future__ import annotations

from atlas_cli.errors import ConfigError
from atlas_cli.inference.adapter_folders import Owner
from atlas_cli.reports.summary import summarise
from atlas_cli.runs.directory import RunDirectory

BEST = "best"


def chosen_round(run: RunDirectory, owner: Owner, typed: str | None) -> int | None:
    """The round that is meant; None, the last that is kept, where nothing was typed.

    ``best`` is that of the best primary metric of the owner's task group, as the run's table has it.

    Raises:
        ConfigError: neither a number nor ``best``, or no round was evaluated.
    """
    if typed is None:
        return None
    if typed != BEST:
        if not typed.isdecimal():
            raise ConfigError(f"{typed} is no round; give a number, or best", key="--round")
        return int(typed)
    found = summarise(run.read_lines("metrics.jsonl"), ())
    best = next((group.best_round for group in found if group.task_group == owner.group), None)
    if best is None:
        raise ConfigError(f"no round of {run.path} was evaluated; give a number", key="--round")
    return best
