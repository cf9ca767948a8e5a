"""``atlas plan`` as typed: what it shows, draws and writes, and that the written config has the figures."""

import json

import pytest

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.planning.cuts.leakage import EXAMPLE
from atlas_cli.planning.devices.clock import ClientWork, LocalStep, round_time
from atlas_cli.planning.devices.cost import client_step, head_step, server_step, step_bytes
from atlas_cli.planning.devices.devices import client_devices, server_device
from atlas_cli.planning.memory_of_plan import build_task_of
from atlas_cli.planning.plan import make_plan

LINK = {"uplink": "2 Mbit/s", "downlink": "8 Mbit/s", "latency": "10 ms", "watts": "3 W"}
DEVICES = {"phone": {"compute": "5 MFLOP/s", **LINK}, "laptop": {"compute": "1 GFLOP/s", **LINK}}
RANGES = ("--cuts", "1,3", "--ranks", "2,4", "--batch-sizes", "2", "--compress", "int8", "--dtypes", "bfloat16")


@pytest.fixture
def planned_file(config_file):
    """A config of two devices, with a comment."""
    file = config_file(devices=DEVICES, clients={"a": {"device": "phone"}, "b": {"device": "laptop"}})
    file.write_text("# mine\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    return file


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args):
        code = main(["plan", *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def round_of(plan, rounds):
    """The round of a plan on the clock, each client for itself."""
    works, training, devices = [], plan.config.training, client_devices(plan.config)
    task, size = build_task_of(plan, "g", ["a", "b"]), (training.batch_size, training.max_length)
    served = head_step(task, plan.hidden_size, plan.hf_config.vocab_size, *size).total
    labels, compress = task.blank_labels(*size), plan.config.privacy.compress
    for client in plan.clients:
        own = client_step(plan.block_shapes, client.cut, client.ranks, *size, checkpointing=client.checkpointing)
        upper = server_step(plan.block_shapes, client.cut, plan.n_layers, plan.above(client.cut), *size)
        sent = step_bytes(plan.hf_config, *size, client.dtype, labels=labels, compress=compress)
        step = LocalStep(own.forward, own.backward, upper.total + served, sent.up, sent.down)
        ends = (
            rounds[client.name]["bytes_up"] - training.local_steps * sent.up,
            rounds[client.name]["bytes_down"] - training.local_steps * sent.down,
        )
        steps = [step] * training.local_steps
        works.append(ClientWork(client.name, client.task_group, devices[client.name], steps, *ends))
    return round_time(works, server_device(plan.config), training.server_update)


def test_the_written_config_has_the_figures_of_the_candidate(run, planned_file, tmp_path, capsys):
    new = tmp_path / "new.yaml"
    code, out, _ = run(planned_file, *RANGES, "--minimise", "time", "--write", new, "--json")
    assert code == 0
    record = json.loads(out)
    chosen = record["front"][record["chosen"]]
    assert main(["memory-report", str(new), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rounds = report["round"].values()
    assert chosen["memory"] == max(client["peak"] for client in report["clients"].values())
    assert chosen["bytes_up"] == sum(each["bytes_up"] for each in rounds)
    assert chosen["bytes_down"] == sum(each["bytes_down"] for each in rounds)
    timed = round_of(make_plan(load_config(new).config), report["round"])
    assert (chosen["seconds"], chosen["joules"]) == (timed.seconds, timed.joules)
    assert chosen["settings"]  # something is set, and the file's comment is still there
    assert new.read_text(encoding="utf-8").startswith("# mine\n")


def test_nothing_is_overwritten_and_write_wants_a_choice(run, planned_file):
    before = planned_file.read_text(encoding="utf-8")
    code, _, err = run(planned_file, "--minimise", "time", "--write", planned_file)
    assert code == 2 and "exists already and is not overwritten" in err
    assert planned_file.read_text(encoding="utf-8") == before
    code, _, err = run(planned_file, "--write", "new.yaml")
    assert code == 2 and err.startswith("error: --write: needs --minimise")
    code, _, err = run(planned_file, "--subject-to", "memory<=1 MiB")
    assert code == 2 and err.startswith("error: --subject-to: needs --minimise")


def test_overrides_are_written_with_all_keys(run, planned_file, tmp_path):
    new = tmp_path / "new.yaml"
    code, out, _ = run(planned_file, "training.rounds=3", "--cuts", "1", "--minimise", "memory", "--write", new)
    assert code == 0 and "all keys are written out" in out
    assert load_config(new).config.training.rounds == 3


def test_an_impossible_limit_says_how_near_it_is(run, planned_file):
    code, _, err = run(planned_file, "--minimise", "time", "--subject-to", "memory<=1 kB", "--cuts", "1-2")
    assert code == 5
    assert "no candidate keeps memory<=<0.001 MiB; the nearest, at split layer 1, misses: memory is" in err


@pytest.mark.parametrize("name", ["front.png", "front.svg"])
def test_the_table_and_the_picture(name, run, planned_file, tmp_path):
    picture, figures = tmp_path / name, tmp_path / "leakage.json"
    figures.write_text(EXAMPLE, encoding="utf-8")
    arguments = ("--leakage", figures, "--cuts", "1,2", "--minimise", "leakage", "--plot", picture)
    code, out, _ = run(planned_file, *arguments)
    assert code == 0
    assert max(map(len, (line.rstrip() for line in out.splitlines() if not line.startswith("note")))) <= 100
    assert "leakage" in out and "0.900" in out and "chosen: split layer 2" in out
    start = picture.read_bytes()[:100]
    assert start.startswith(b"\x89PNG") if name.endswith("png") else b"<?xml" in start
