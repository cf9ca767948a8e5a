"""A tiny experiment in a folder of its own, and the benchmarks that these tests run in small."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from atlas_cli.cli import main
from atlas_cli.experiment import session
from atlas_cli.runs.directory import RunDirectory

ROOT = Path(__file__).parents[2]
ROWS = [f"the film was {word} {i},{label}" for i in range(10) for word, label in (("good", "pos"), ("bad", "neg"))]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def chaos():
    return benchmark("chaos")


def write_config(folder, model_folder, **changes) -> Path:
    """A config file with these changes by section, and its data; runs go to folder/runs."""
    (folder / "data.csv").write_text("\n".join(["text,label", *ROWS]) + "\n", encoding="utf-8")
    config = {
        "name": "toy",
        "device": "cpu",
        "threads": 1,
        "model": {"name": model_folder("bert"), "split_layer": 2},
        "task_groups": {
            "g": {"task": "sequence-classification", "data": {"files": str(folder / "data.csv")}},
        },
        "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2}},
        "training": {"rounds": 3, "local_steps": 2, "batch_size": 4, "max_length": 32},
        "output": {"dir": str(folder / "runs")},
    }
    for section, values in changes.items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, dict) else values
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def write(tmp_path, model_folder):
    """``write(section={...})``: a config file with these changes; runs go to tmp_path/runs."""
    return partial(write_config, tmp_path, model_folder)


@pytest.fixture
def train(tmp_path):
    """``train(path, ...)``: exit code, and the newest run directory."""

    def run(*arguments):
        code = main(["train", *map(str, arguments)])
        logs = sorted((tmp_path / "runs").glob("*/log.txt"), key=lambda path: path.stat().st_ctime_ns)
        return code, RunDirectory(logs[-1].parent) if logs else None

    return run


def call_at_step(monkeypatch, real, n, action):
    count = iter(range(1, 10**6))

    def on_step(self, number):
        tell = real(self, number)

        def then(step, done):
            if next(count) == n:
                action()
            tell(step, done)

        return then

    monkeypatch.setattr(session.Recorder, "on_step", on_step)


@pytest.fixture
def at_step(monkeypatch):
    """``at_step(n, action)``: call ``action`` once, after the n-th local step from now on."""
    return partial(call_at_step, monkeypatch, session.Recorder.on_step)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory, model_folder):
    """The folder of a run that was interrupted in its second round, to be copied and left as it is."""

    def interrupt():
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        call_at_step(patch, session.Recorder.on_step, 3, interrupt)
        assert main(["train", str(write_config(folder, model_folder, server={"rank": 2}))]) == 130
    (made,) = (folder / "runs").iterdir()
    return made
