"""A tiny experiment whose messages are recorded."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cli"))
from toy_runs import TASKS, nested, write_data


@pytest.fixture(scope="session")
def toy(tmp_path_factory, model_folder):
    """``toy(task=..., **changes)``: the config of one group and three clients, as a dictionary."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)

    def make(task="sequence-classification", family=None, **changes):
        default, file = TASKS[task]
        config = {
            "name": "toy",
            "device": "cpu",
            "threads": 1,
            "model": {"name": model_folder(family or default), "split_layer": 2},
            "task_groups": {"g": {"task": task, "data": {"files": str(folder / file)}}},
            "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2, "count": 2}},
            "training": {"rounds": 2, "local_steps": 2, "batch_size": 4, "max_length": 32},
            "output": {"dir": str(tmp_path_factory.mktemp("runs"))},
        }
        return nested(config, changes)

    return make


@pytest.fixture(scope="session")
def trained(toy):
    """``trained(**changes)``: the run directory of such a config; trained once a session and change."""
    from rich.console import Console

    from atlas_cli.config.schema import ExperimentConfig
    from atlas_cli.federation import session
    from atlas_cli.reports.progress import progress_for

    made = {}

    def make(**changes):
        key = repr(changes)
        if key not in made:
            with pytest.MonkeyPatch.context() as patch, progress_for(Console(quiet=True)) as progress:
                patch.setattr(session, "write_report", lambda run, manifest: run.write_text("report.html", ""))
                made[key] = session.start(ExperimentConfig.model_validate(toy(**changes)), progress)
        return made[key]

    return make
