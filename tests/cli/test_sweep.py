"""``atlas sweep``: what is run, left out, gone on with or refused, and what it says in the end.

Runs are trained in this process here; ``test_sweep_processes`` starts processes.
"""

import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
from support.sweeps import train_here

from atlas_cli.cli import main
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_lock import locked
from atlas_cli.sweeps import trial
from atlas_cli.sweeps.child import ProcessEnd


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """What was started, as arguments of ``atlas train``."""
    monkeypatch.setenv("COLUMNS", "200")
    calls = []

    def train(arguments, log):
        calls.append(arguments)
        return train_here(arguments, log)

    monkeypatch.setattr(trial, "train", train)
    return calls


@pytest.fixture
def sweep(config_file, capsys):
    """``sweep(*arguments)``: exit code, standard output and standard error of a sweep of the toy config."""
    path = config_file(training={"rounds": 1, "local_steps": 1})

    def run(*arguments):
        code = main(["sweep", str(path), *arguments])
        return code, *capsys.readouterr()

    run.file = str(path)
    run.runs = path.parent / "runs"
    return run


def made(sweep):
    return sorted(path.parent for path in sweep.runs.glob("*/manifest.json"))


@pytest.mark.slow
def test_a_grid_with_a_failure_in_the_middle(sweep, started):
    grid = ("seed=0,1", "training.client_optimizer.lr=0.01,1e30,0.02", "training.local_steps=2")
    code, out, err = sweep(*grid)
    assert code == 1 and err == ""
    assert [(a[0], a[1], a[2], a[3]) for a in started] == [
        (sweep.file, f"seed={seed}", f"training.client_optimizer.lr={lr}", "training.local_steps=2")
        for seed in (0, 1)
        for lr in ("0.01", "1e30", "0.02")
    ]
    table = out.partition("\nSweep")[2]
    assert re.findall(r"^(\d) (\d) +(\S+) +(\w+) +([-.\d]+) +\S+_toy_(\d)\S* *$", table, re.M) == [
        (str(1 + 3 * seed + i), str(seed), lr, *("failed -" if lr == "1e30" else "finished 0.500").split(), str(seed))
        for seed in (0, 1)
        for i, lr in enumerate(["0.01", "1e30", "0.02"])
    ]
    assert (
        len(re.findall(r"^[25] failed: activation sent by client a, round 1, step 1 is not finite", table, re.M)) == 2
    )
    assert re.search(r"^0.01 +2 +0.500 ± 0.000$", table, re.M) and re.search(r"^1e30 +0 of 2 +-$", table, re.M)

    started.clear()
    code, out, _ = sweep(*grid, "--dry-run")
    assert code == 0 and not started
    assert out.count("skip (finished)") == 4 and len(re.findall(r"1e30 +resume", out)) == 2
    code, out, _ = sweep(*grid)
    assert code == 1
    assert [a[0] for a in started] == ["--resume"] * 2  # what failed is tried again, from its checkpoint
    assert len(re.findall(r"skipped +0.500", out)) == 4
    assert len(made(sweep)) == 6


def test_figures_are_those_of_the_runs(sweep):
    rates = (f"training.{each}_optimizer.lr=0.05" for each in ("client", "server"))
    code, out, err = sweep("seed=0,1,2", *rates, "--json")
    assert code == 0 and "3/3 seed=2: finished" in err
    said = json.loads(out)
    runs = [RunDirectory(path) for path in made(sweep)]
    accuracy = {
        r.read_json("manifest.json")["seed"]: r.read_lines("metrics.jsonl")[-1]["test"]["accuracy"] for r in runs
    }
    assert {r["values"]["seed"]: r["task_groups"]["g"]["after"] for r in said["runs"]} == accuracy
    assert {r["run"] for r in said["runs"]} == {str(r.path) for r in runs}
    (mean,) = said["over_seeds"]
    assert (mean["values"], mean["seeds"], mean["task_groups"]["g"]["n"]) == ({}, 3, 3)
    assert mean["task_groups"]["g"]["mean"] == pytest.approx(sum(accuracy.values()) / 3)
    assert mean["task_groups"]["g"]["sd"] == pytest.approx(statistics.stdev(accuracy.values()))
    (kept,) = sweep.runs.glob("*_toy_sweep/sweep.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == said
    page = (kept.parent / "report.html").read_text(encoding="utf-8")
    assert "3 of 3 runs finished." in page and f"../{runs[0].path.name}/report.html" in page and "refresh" not in page


@pytest.mark.slow
def test_one_run_and_values_in_brackets(sweep, started):
    code, out, _ = sweep("lora.targets=[query, value]")
    assert code == 0 and "Over seeds" not in out
    assert started == [[sweep.file, "lora.targets=[query, value]"]]
    code, out, _ = sweep("lora.targets=[query, value],[query]")
    assert code == 0 and started[1:] == [[sweep.file, "lora.targets=[query]"]]  # the first is finished
    assert re.search(r"1 \[query, value\] +skipped", out)


@pytest.mark.slow
def test_keys_that_may_change_tell_runs_apart(sweep, started):
    assert sweep("training.rounds=1,2")[0] == 0
    assert sweep("training.rounds=2,1,3")[0] == 0
    assert [a[1] for a in started] == [f"training.rounds={n}" for n in (1, 2, 3)]


@pytest.mark.slow
def test_an_unfinished_run_goes_on(sweep, started):
    assert sweep("training.rounds=2")[0] == 0
    (path,) = made(sweep)
    run = RunDirectory(path)
    whole = run.read_lines("metrics.jsonl")
    run.write_json("manifest.json", {**run.read_json("manifest.json"), "status": "running"})  # as after a kill
    shutil.rmtree(path / "checkpoints/round-000002")
    assert sweep("training.rounds=2,3")[0] == 0
    assert [a[0] for a in started] == [sweep.file, "--resume", sweep.file]
    assert run.read_lines("metrics.jsonl")[-1]["test"] == whole[-1]["test"]
    run.write_json("manifest.json", {**run.read_json("manifest.json"), "status": "failed"})
    shutil.rmtree(path / "checkpoints")
    assert "1 run " in sweep("training.rounds=2", "--dry-run")[1]  # nothing to go on from


@pytest.mark.slow
def test_a_run_that_cannot_go_on_is_a_failure_of_its_own(sweep):
    assert sweep("seed=0")[0] == 0
    run = RunDirectory(made(sweep)[0])
    run.write_json("manifest.json", {**run.read_json("manifest.json"), "status": "failed"})
    for folder in run.path.glob("checkpoints/round-*"):
        (folder / "state.safetensors").write_bytes(b"")
    code, out, _ = sweep("seed=0,1")
    assert code == 1 and len(made(sweep)) == 2
    assert "1 failed: " in out and "damaged" in out and re.search(r"2 1 +finished", out)


@pytest.mark.slow
def test_a_run_that_another_process_holds(sweep, started):
    assert sweep("seed=0")[0] == 0
    run = RunDirectory(made(sweep)[0])
    run.write_json("manifest.json", {**run.read_json("manifest.json"), "status": "running"})
    started.clear()
    with locked(run, print):
        assert "fail (another process writes there)" in sweep("seed=0,1", "--dry-run")[1]
        code, out, _ = sweep("seed=0,1")
    assert code == 1 and [a[1] for a in started] == ["seed=1"]
    assert f"1 failed: {run.path} is written by process" in out


@pytest.mark.slow
def test_a_config_that_changes_meanwhile(sweep, monkeypatch, started):
    train = trial.train

    def edit(arguments, log):
        file = Path(sweep.file)
        file.write_text(file.read_text(encoding="utf-8").replace("local_steps: 1", "local_steps: 3"), encoding="utf-8")
        return train(arguments, log)

    monkeypatch.setattr(trial, "train", edit)
    code, out, _ = sweep("seed=0,1")
    assert code == 1 and len(started) == 1
    assert "2 failed: " in out and "has changed since the sweep began" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["seed=0,1", "training.rounds=1,0"],
            "training.rounds: must be at least 1, got 0 (with seed=0 training.rounds=0",
        ),
        (["seed=0,", "x=1"], "command line: seed: has an empty value"),
        (
            ["seed=0,1", "training.rounds="],
            "training.rounds: expected an integer, got nothing; write one, or remove the key for its default, 10\n",
        ),
        (["seed=0,1", "seed=3"], "command line: seed: is given twice"),
        (["seed=1,+1"], "seed=1 and seed=+1 are the same config"),
        (["seed=1,2", "rounds=3"], "command line: rounds is not a known key"),
        (["seed=1,[2"], "command line: seed: not valid YAML"),
        (["nothing"], "command line: 'nothing' is not an override"),
        (["--engine", "nowhere"], "--engine: 'nowhere' is not known"),
    ],
)
def test_bad_input_is_found_before_anything_runs(sweep, started, arguments, message):
    code, out, err = sweep(*arguments)
    assert (code, out, started) == (2, "", [])
    assert err.startswith("error: ") and message in err
    assert not sweep.runs.exists()


def test_every_problem_of_a_grid_is_said_once(sweep):
    code, _, err = sweep("seed=0,-1,-2", "aggregation.method=fedex,fedx")
    assert code == 2
    assert [line.partition(" (with ")[2] for line in err.splitlines()] == [
        "seed=0 aggregation.method=fedx and 2 more)",
        "seed=-1 aggregation.method=fedex and 1 more)",
        "seed=-2 aggregation.method=fedex and 1 more)",
    ]


@pytest.mark.slow
def test_interrupted_between_runs(sweep, started, monkeypatch):
    train = trial.train

    def stop(arguments, log):
        return train(arguments, log) if not started else ProcessEnd("interrupted", True)

    monkeypatch.setattr(trial, "train", stop)
    code, out, _ = sweep("seed=0,1,2")
    assert code == 130 and "the same command goes on" in out
    assert re.findall(r"^\d \d +(finished|interrupted|not started) ", out, re.M) == [
        "finished",
        "interrupted",
        "not started",
    ]


@pytest.mark.slow
def test_a_protocol_reads_the_records_of_finished_runs(sweep, started):
    grid = ("seed=0,1",)
    code, out, _ = sweep(*grid, "--protocol", "quality-under-budget", "--budget", "bytes=1 GB", "--json")
    assert (code, len(started)) == (0, 2)
    board = json.loads(out)["leaderboard"]
    assert board["budget"] == {"bytes": 1e9} and [each["counted"] for each in board["entries"]] == [2]
    code, out, _ = sweep(*grid, "--protocol", "cost-to-target", "--target", "accuracy=2")
    assert (code, len(started)) == (0, 2)  # nothing is trained twice
    assert "Cost to target: accuracy=2" in out and out.count("0 of 2") == 1 and "> 0.0" in out
    code, out, _ = sweep(*grid, "--protocol", "robustness")
    assert code == 2
    folders = sorted(sweep.runs.glob("*_sweep*"))  # two of one second differ in a number at the end
    assert len(folders) == 2  # a protocol that is refused begins nothing
    assert {path.name for path in folders[0].glob("leaderboard*")} > {"leaderboard.json"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--budget|bytes=1 MB", "--budget: goes with --protocol"),
        ("--protocol|quality-under-budget", "--budget: quality-under-budget needs one; add e.g. --budget 'time=2 h"),
        ("--protocol|cost-to-target", "--target: cost-to-target needs one"),
        (
            "--protocol|cost-to-target|--target|acuracy=1",
            "--target: acuracy is no primary metric of these runs; did you",
        ),
        ("--protocol|cost-to-target|--target|accuracy", "--target: 'accuracy' must be METRIC=VALUE"),
        (
            "--protocol|quality-under-budget|--budget|bytes=1 B|--target|accuracy=1",
            "--target: is of cost-to-target and robustness",
        ),
        ("--held|2", "--held: goes with --protocol"),
        ("--protocol|robustness|--held|2", "--held: is of a target"),
        ("--protocol|robustness|--baseline|all", "--baseline: is of cost-to-target, and not of robustness"),
        (
            "--protocol|cost-to-target|--target|accuracy=1|--baseline|seed=0",
            "--baseline: 'seed=0' is no setting of this sweep; it has: 'all'",
        ),
        ("--protocol|robustness", "--protocol: robustness needs an axis of faults, devices or a deadline"),
        (
            "--protocol|quality-under-budget|--budget|time=1 h",
            "--budget: time: client a has no device; add it, or limit",
        ),
    ],
)
def test_what_a_protocol_lacks_is_said_before_anything_is_trained(sweep, started, options, says):
    code, _, err = sweep("seed=0,1", *options.split("|"))
    assert (code, started, err.count("\n")) == (2, [], 1) and says in err
