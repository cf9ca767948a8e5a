"""Fixtures for runs of ``atlas train`` on tiny models."""

from pathlib import Path

import pytest
import yaml
from support.toy_runs import nested, toy_config, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def config_file(tmp_path, data, model_folder):
    """``config_file(task=..., **changes)``: a YAML file of one group and three clients; runs go to tmp_path/runs."""

    def write(task="sequence-classification", **changes) -> Path:
        config = toy_config(model_folder, data, tmp_path / "runs", task, **nested({"server": {"rank": 2}}, changes))
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return path

    return write
