"""Fixtures for runs of ``atlas train`` on tiny models."""

from pathlib import Path

import pytest
import yaml
from toy_runs import TASKS, nested, write_data

from atlas_cli.federation import session


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def config_file(tmp_path, data, model_folder):
    """``config_file(task=..., **changes)``: a YAML file of one group and three clients; runs go to tmp_path/runs."""

    def write(task="sequence-classification", family=None, **changes) -> Path:
        default, file = TASKS[task]
        config = {
            "name": "toy",
            "device": "cpu",
            "threads": 1,
            "model": {"name": model_folder(family or default), "split_layer": 2},
            "server": {"rank": 2},
            "task_groups": {"g": {"task": task, "data": {"files": str(data / file)}}},
            "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2, "count": 2}},
            "training": {"rounds": 2, "local_steps": 2, "batch_size": 4, "max_length": 32},
            "output": {"dir": str(tmp_path / "runs")},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(nested(config, changes), sort_keys=False))
        return path

    return write


@pytest.fixture
def no_pictures(monkeypatch):
    """Reports are what takes longest in a run of a second; other tests look at them."""
    monkeypatch.setattr(session, "write_report", lambda run, manifest: run.write_text("report.html", "<svg></svg>"))
