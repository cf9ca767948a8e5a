"""Runs of the command on Ray: gone on with on another engine, killed, and in a sweep."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.torch import load_file
from support.toy_runs import train

from atlas_cli.cli import main
from atlas_cli.engines.remote import cluster
from atlas_cli.extras import install_command
from atlas_cli.runs.directory import RunDirectory

needs_ray = pytest.mark.ray
pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")
TIMES = ("seconds", "samples_per_second", "simulated")


def records(run):
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for name in ("metrics.jsonl", "clients.jsonl", "messages.jsonl")
        for line in run.read_lines(name)
    ]


def adapters(run):
    files = sorted((run.path / "adapters").rglob("*.safetensors"))
    return {
        f"{path.relative_to(run.path)}/{name}": tensor.tolist()
        for path in files
        for name, tensor in load_file(path).items()
    }


def test_without_ray(config_file, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert main(["train", str(config_file()), "--engine", "ray"]) == 2
    assert f"engine.name: ray is not installed: {install_command('ray')}, or use" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("engine.offload=1 GiB", "engine.offload: is for clients in one process, and engine.name is ray; remove it"),
        ("engine.compile=true", "engine.compile: is for clients in one process"),
        ("engine.address=ray://x:1", "engine.address: must be auto or host:port, got 'ray://x:1'"),
        ("engine.gpus=-1", "engine.gpus: must be at least 0"),
    ],
)
def test_what_ray_cannot_do(config_file, capsys, override, text):
    assert main(["validate", str(config_file()), "engine.name=ray", override]) == 2
    assert text in capsys.readouterr().err


@needs_ray
def test_a_run_goes_on_on_the_other_engine(config_file, capsys):
    """Two rounds in one process; one on Ray and one in-process; one in-process and one on Ray: all the same."""
    file = config_file(engine={"fuse": "off", "hosts": 1})
    whole = train(file)
    for first, second in (("ray", "in-process"), ("in-process", "ray")):
        begun = train(file, "training.rounds=1", f"engine.name={first}")
        assert main(["train", "--resume", str(begun.path), "training.rounds=2", "--engine", second]) == 0
        run = RunDirectory(begun.path)
        assert records(run) == records(whole)
        assert adapters(run) == adapters(whole)
        if second == "ray":
            assert run.read_json("manifest.json")["engine"]["ray"]["moved_bytes"]["steps to clients"] > 0
    assert "ray 2." in capsys.readouterr().out


@needs_ray
def test_a_resumed_run_of_several_processes_has_the_same_shared_passes(config_file):
    """Who is where does not depend on the rounds that this process saw: of a cohort others take part in each."""
    clients = {name: {"task_group": "g", "rank": 1 + i} for i, name in enumerate("abcdefg")}
    training = {"cohort": 0.6, "rounds": 4, "local_steps": 2}
    file = config_file(engine={"name": "ray", "hosts": 2}, clients=clients, training=training)
    whole, begun = train(file), train(file, "training.rounds=2")
    assert main(["train", "--resume", str(begun.path), "training.rounds=4"]) == 0
    run = RunDirectory(begun.path)
    # its second round was once the last, in which all are sent the result: bytes differ, and nothing that is learned
    learned = [
        [(line["train_loss"], line["test"]) for line in each.read_lines("metrics.jsonl")] for each in (run, whole)
    ]
    assert learned[0] == learned[1]
    assert adapters(run) == adapters(whole)


@needs_ray
def test_a_killed_driver_leaves_nothing_behind_and_its_run_goes_on(config_file, tmp_path):
    file = config_file(engine={"fuse": "off", "name": "ray", "hosts": 1}, training={"rounds": 40, "local_steps": 2})
    process = subprocess.Popen([sys.executable, "-m", "atlas_cli", "train", str(file)], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and not list((tmp_path / "runs").glob("*/checkpoints/round-000002")):
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [child for child in alive if not child.name().endswith("Agent")] == []  # Ray's agents may take minutes
    (path,) = (tmp_path / "runs").iterdir()
    done = len(RunDirectory(path).read_lines("metrics.jsonl"))
    assert main(["train", "--resume", str(path), f"training.rounds={done + 1}", "--engine", "in-process"]) == 0
    whole = train(file, f"training.rounds={done + 1}", "engine.name=in-process")
    assert records(RunDirectory(path)) == records(whole)
    assert adapters(RunDirectory(path)) == adapters(whole)


@needs_ray
def test_a_sweep_runs_side_by_side(config_file, tmp_path, capsys):
    sweep = [
        "sweep",
        str(config_file(training={"rounds": 1})),
        "clients.a.rank=2,2000,3",
        "--engine",
        "ray",
        "--json",
    ]
    assert main(sweep) == 1
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert "rank" in rows[1]["error"]
    assert main(sweep) == 1
    again = json.loads(capsys.readouterr().out)["runs"]
    assert [row["status"] for row in again] == ["skipped", "failed", "skipped"]
    assert [row["run"] for row in again[::2]] == [row["run"] for row in rows[::2]]
    assert main(["sweep", str(config_file()), "seed=0,1", "engine.name=ray", "--engine", "ray"]) == 2
    assert "a sweep on ray runs trials side by side" in capsys.readouterr().err
    assert os.environ["RAY_AUTH_TOKEN"] not in "".join(
        p.read_text(encoding="utf-8") for p in (tmp_path / "runs").rglob("*.json")
    )
