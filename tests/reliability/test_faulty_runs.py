"""``atlas train`` with clients that fail: what is said, what is recorded, and how a run that stopped goes on."""

import json
from dataclasses import replace

import pytest

from atlas_cli.cli import main
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.runs.directory import RunDirectory


@pytest.fixture
def faulty(write):
    """``faulty(**changes)``: a config file with clients a, b and c; runs go to tmp_path/runs."""

    def make(**changes):
        training = {"rounds": 4, **changes.pop("training", {})}
        clients = {"c": {"task_group": "g", "rank": 3}, **changes.pop("clients", {})}
        return write(clients=clients, training=training, **changes)

    return make


def run_of(tmp_path):
    (path,) = (tmp_path / "runs").glob("*")
    return RunDirectory(path)


def rounds(run):
    return [line["round"] for line in run.read_lines("metrics.jsonl")]


@pytest.mark.slow
def test_too_few_clients_is_exit_5_and_what_it_says_goes_on(faulty, tmp_path, capsys):
    crash = {"a": {"round": 3}, "b": {"round": 3, "step": 1}}
    path = faulty(training={"min_clients": 2}, faults={"crash_at": crash})
    assert main(["train", str(path)]) == 5
    error, run = " ".join(capsys.readouterr().err.split()), run_of(tmp_path)
    assert "round 3: 1 of 3 clients left" in error and "a: failed before step 0; b: failed before step 1" in error
    assert rounds(run) == [0, 1, 2]
    assert run.read_json("manifest.json")["status"] == "failed"
    assert json.loads((run.path / "checkpoints/round-000002/manifest.json").read_text(encoding="utf-8"))["round"] == 2
    assert main(["train", "--resume", str(run.path)]) == 5  # the same faults come again
    capsys.readouterr()
    assert main(["train", "--resume", str(run.path), "faults.drop=0.1"]) == 2
    assert "faults.drop: cannot change when a run is resumed" in capsys.readouterr().err
    lower = next(word for word in error.split() if word.startswith("training.min_clients="))
    command = error.partition("atlas train ")[2].split()[:2]
    assert command == ["--resume", str(run.path)] and lower == "training.min_clients=1"
    assert main(["train", *command, lower]) == 0
    assert rounds(run) == [0, 1, 2, 3, 4]
    assert run.read_lines("metrics.jsonl")[3]["participants"] == ["c"]


@pytest.mark.slow
def test_a_round_without_anybody_never_counts(faulty, tmp_path, capsys):
    path = faulty(faults={"crash_at": {name: {"round": 2} for name in "abc"}})
    assert main(["train", str(path)]) == 5
    assert "round 2: 0 of 3 clients left" in " ".join(capsys.readouterr().err.split())
    assert rounds(run_of(tmp_path)) == [0, 1]


@pytest.mark.slow
def test_drops_are_in_the_line_of_their_round_and_counted_at_the_end(faulty, tmp_path, capsys):
    path = faulty(faults={"crash_at": {"b": {"round": 2, "step": 1}, "c": {"round": 3}}})
    assert main(["train", str(path)]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("round 2/4"))
    assert line.endswith("dropped b (failed before step 1)")
    assert "clients dropped for a round: 2 in g" in out
    lines = run_of(tmp_path).read_lines("metrics.jsonl")
    assert [x["dropped"] for x in lines] == [{}, {}, {"b": "failed before step 1"}, {"c": "failed before step 0"}, {}]


def test_a_nan_is_exit_4_and_the_run_goes_on_without_its_client(faulty, tmp_path, capsys, monkeypatch):
    send = SplitClient.send

    def spoilt(self, activations, mask, labels):
        message = send(self, activations, mask, labels)
        if (self.name, *self.now) == ("b", 3, 1):
            message = replace(message, activations=message.activations / 0)
        return message

    monkeypatch.setattr(SplitClient, "send", spoilt)
    assert main(["train", str(faulty())]) == 4
    run = run_of(tmp_path)
    says = "activation sent by client b, round 3, step 1 is not finite"
    assert says in " ".join(capsys.readouterr().err.split()) and rounds(run) == [0, 1, 2]
    assert main(["train", "--resume", str(run.path), "training.on_nonfinite=drop-client"]) == 0
    assert run.read_lines("metrics.jsonl")[3]["dropped"] == {"b": says}


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ({"compute": "1 GFLOP/s", "uplink": "1 Mbit/s"}, "client a has no downlink"),
        ({"memory": "2 GiB"}, "client a has no compute and no uplink and no downlink"),
    ],
)
def test_a_deadline_needs_devices_that_say_how_fast_they_are(faulty, capsys, device, says):
    clients = {name: {"task_group": "g", "device": "toy"} for name in "abc"}
    path = faulty(devices={"toy": device}, clients=clients, training={"deadline": "5 s"})
    assert main(["train", str(path)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert says in error and "training.deadline" in error


@pytest.mark.slow
def test_few_clients_for_a_trimmed_mean_are_warned_of(faulty, capsys):
    path = faulty(aggregation={"method": "trimmed-mean"}, training={"rounds": 1})
    assert main(["train", str(path)]) == 0
    assert "warning: g: trim 0.1 of 3 clients cuts nobody: this is the plain mean" in capsys.readouterr().out
