"""``--resume auto``, and which keys may change when a run goes on."""

from __future__ import annotations

import json

import pytest
from support.slow import slow

from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_lock import locked


def stop():
    raise KeyboardInterrupt


@pytest.fixture
def stopped(write, train, at_step):
    """``stopped(**changes)``: a config, and its run, which was interrupted in round 2."""

    def make(**changes):
        path = write(**changes)
        at_step(3, stop)
        code, run = train(path)
        assert code == 130
        return path, run

    return make


def records(run, name="metrics.jsonl"):
    timings = {"seconds", "samples_per_second"}
    return [{k: v for k, v in line.items() if k not in timings} for line in run.read_lines(name)]


@pytest.mark.slow
def test_the_newest_unfinished_run_of_this_config(write, train, stopped, at_step):
    path, _ = stopped()
    at_step(3, stop)
    _, newer = train(path)
    write(lora={"alpha": 8})
    at_step(3, stop)
    assert train(path)[0] == 130  # of another config
    write()
    assert train(path)[0] == 0  # finished
    assert train(path, "--resume", "auto")[0] == 0
    assert newer.read_json("manifest.json")["status"] == "finished"
    assert "goes on after round 1" in (newer.path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_also_where_ranks_follow_from_devices(train, stopped):
    device = {"phone": {"memory": "2 GiB", "uplink": "1 Mbit/s"}}
    allocation = {"r_max": 4, "importance": "uniform", "uplink_seconds": 5.0}
    clients = {"a": {"task_group": "g", "device": "phone", "rank": "auto"}, "b": {"task_group": "g", "rank": 2}}
    path, run = stopped(devices=device, allocation=allocation, clients=clients)
    assert run.read_json("manifest.json")["config"]["clients"]["a"]["rank"] != "auto"
    assert train(path, "--resume", "auto", "training.rounds=4")[0] == 0
    assert [line["round"] for line in records(run)] == [0, 1, 2, 3, 4]


def test_none_is_an_error_that_says_what_was_looked_for(write, train, stopped, capsys, tmp_path):
    path = write()
    assert train(path, "--resume", "auto")[0] == 2
    assert capsys.readouterr().err == (
        f"error: {path}: --resume auto found no unfinished run of this config in {tmp_path / 'runs'} (no other run "
        "there); leave --resume out to start one, or give a run directory\n"
    )
    assert not (tmp_path / "runs").exists()
    path, run = stopped()
    capsys.readouterr()
    with locked(run, print):
        assert train(path, "--resume", "auto")[0] == 2
    assert f"{run.path.name} is being written by process" in capsys.readouterr().err
    write(training={"batch_size": 2})
    assert train(path, "--resume", "auto")[0] == 2
    assert "(1 other run there)" in capsys.readouterr().err
    (run.path / "manifest.json").write_text("[" * 100_000, encoding="utf-8")
    write()
    assert train(path, "--resume", "auto")[0] == 2
    assert "(1 other run there)" in capsys.readouterr().err
    assert train("--resume", "auto")[0] == 2
    assert "give a config" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_ended_before_its_first_checkpoint_is_passed_over(train, stopped, capsys):
    path, run = stopped()
    for folder in folders(run):
        folder.rename(folder.with_name(f".{folder.name}.tmp"))
    assert train(path, "--resume", "auto")[0] == 2
    assert f"{run.path.name} ended before its first checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "clients.a.weight=2",
        *slow("devices.d.memory='1 GiB'", "threads=2", "seed=1", "training.local_steps=3", "name=other"),
    ],
)
def test_what_changes_the_run_is_refused(train, stopped, capsys, change):
    _, run = stopped()
    capsys.readouterr()
    assert train("--resume", run.path, change)[0] == 2
    key = change.partition("=")[0]
    err = capsys.readouterr().err
    assert key.split(".")[0] in err and "cannot change when a run is resumed; only these may: training.rounds" in err


@pytest.mark.slow
def test_what_may_change(train, stopped):
    _, run = stopped()
    changes = ["training.rounds=4", "evaluation.every=4", "checkpoints.keep=1", "checkpoints.every=3", "device=auto"]
    assert train("--resume", run.path, *changes, "aggregation.error_ledger=false")[0] == 0
    assert [bool(line["test"]) for line in records(run)] == [True, True, False, False, True]
    assert [folder.name for folder in folders(run)] == ["round-000004"]


@pytest.mark.parametrize("schedule", [{"name": "cosine"}, *slow({"name": "constant", "warmup": 0.5})])
def test_more_rounds_are_refused_where_the_learning_rate_depends_on_their_number(train, stopped, capsys, schedule):
    path, run = stopped(training={"rounds": 3, "local_steps": 2, "max_length": 32, "schedule": schedule})
    capsys.readouterr()
    assert train("--resume", run.path, "training.rounds=4")[0] == 2
    err = capsys.readouterr().err
    assert "training.rounds: cannot change: the schedule (" in err and "over all 3 rounds" in err
    assert train(path, "--resume", "auto", "training.rounds=3")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("cohort", [1.0, 0.5])
def test_more_rounds_after_the_end_train_as_if_they_had_been_asked_for_at_once(write, train, cohort):
    few = {"rounds": 2, "local_steps": 2, "max_length": 32, "cohort": cohort}
    path = write(training=few)
    _, run = train(path)
    assert train("--resume", run.path, "training.rounds=5")[0] == 0
    write(training={**few, "rounds": 5})
    _, whole = train(path)
    assert train("--resume", run.path)[0] == 2
    assert [r["train_loss"] for r in records(run)] == [r["train_loss"] for r in records(whole)]
    last = "checkpoints/round-000005/state.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()
    if cohort == 1:  # else the clients that sat the former last round out got its adapters in that round already
        assert records(run) == records(whole) and records(run, "messages.jsonl") == records(whole, "messages.jsonl")


@pytest.mark.slow
def test_fewer_rounds_than_are_done(train, stopped, capsys):
    _, run = stopped()
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert train("--resume", run.path, "training.rounds=1")[0] == 0  # those are done: it ends here
    assert RunDirectory(run.path).read_json("manifest.json")["started"] == manifest["started"]
    assert train("--resume", run.path, "training.rounds=3")[0] == 0
    assert train("--resume", run.path, "training.rounds=2")[0] == 2
    assert "3 rounds are done already, got 2" in capsys.readouterr().err
