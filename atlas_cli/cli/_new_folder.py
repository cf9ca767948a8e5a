"""A new folder beside runs, of what commands make of many of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_cli.config.schema.experiment import ExperimentConfig
    from atlas_cli.runs.directory import RunDirectory


def folder_beside_runs(config: ExperimentConfig, kind: str) -> RunDirectory:
    """``<output.dir>/<time>_<name>_<kind>/``, made now.

    Raises:
        OutputError: the folder of runs cannot be written.
    """
    from atlas_cli.runs.directory import RunDirectory, folder_of_runs, make_new
    from atlas_cli.storage.writing import writing

    base = folder_of_runs(config.output.dir)
    with writing(base):
        base.mkdir(parents=True, exist_ok=True)
        return RunDirectory(make_new(base, f"{datetime.now():%Y%m%d-%H%M%S}_{config.name}_{kind}"))
