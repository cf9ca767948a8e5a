"""``privacy.budget`` and ``--ledger`` on the command line: what stops, what is frozen, and what earlier runs told."""

import json

import pytest

from atlas_cli import load_run
from atlas_cli.cli import main
from atlas_cli.privacy.account.accounting import gaussian_epsilon
from atlas_cli.runs.directory import RunDirectory

SHORT = {"rounds": 4, "local_steps": 1, "batch_size": 2}
Z = 2.0
UPDATES = {"clip": 0.5, "noise_multiplier": Z, "where": "client"}


def between(rounds):
    """An epsilon that this many rounds are within, and one more is not."""
    return (gaussian_epsilon(Z, rounds, 1e-5) + gaussian_epsilon(Z, rounds + 1, 1e-5)) / 2


def budget(rounds, **keys):
    return {"updates": UPDATES, "budget": {"epsilon": between(rounds), **keys}}


@pytest.fixture
def private(config_file):
    return lambda **changes: config_file(aggregation={"method": "zero-pad", "weights": "uniform"}, **changes)


def runs_of(folder):
    return [RunDirectory(path) for path in sorted((folder / "runs").iterdir(), key=lambda path: path.stat().st_ctime)]


def adapters(run):
    files = sorted((run.path / "adapters").rglob("*.safetensors"))
    return {file.relative_to(run.path).as_posix(): file.read_bytes() for file in files}


def told(run):
    """Of each round, what does not depend on whether it was once the last of a run, which delivers to everyone."""
    fields = ("round", "train_loss", "test", "epsilon", "spent", "frozen", "participants")
    return [{field: line[field] for field in fields} for line in run.read_lines("metrics.jsonl")]


def said(capfd):
    return " ".join("".join(capfd.readouterr()).split())


@pytest.mark.slow
def test_training_stops_before_the_round_that_would_pass_and_is_as_if_no_more_had_been_planned(
    private, tmp_path, capfd
):
    file = private(training=SHORT, privacy=budget(2), evaluation={"every": 3})
    assert main(["validate", str(file)]) == 0
    foreseen = (
        "privacy.budget ends training after round 2 of 4: round 3 is not trained: a would have told updates of epsilon "
    )
    assert foreseen in said(capfd)
    assert main(["train", str(file)]) == 5
    err = said(capfd)
    assert foreseen in err and "ended after round 2 of 4: round 3 is not trained" in err
    (run,) = runs_of(tmp_path)
    manifest, metrics = run.read_json("manifest.json"), run.read_lines("metrics.jsonl")
    assert manifest["status"] == "finished" and manifest["adapters_of_round"] == 2
    assert manifest["budget_stop"]["after_round"] == 2 and "early_stop" not in manifest
    assert [line["round"] for line in metrics] == [0, 1, 2] and metrics[-1]["test"]
    assert (
        metrics[-1]["spent"]
        == {"updates": gaussian_epsilon(Z, 2, 1e-5)}
        == {"updates": manifest["privacy"]["epsilon"]["g"]["updates"]}
    )
    own = [line["epsilon"] for line in run.read_lines("clients.jsonl") if line["round"] == 2]
    assert own == [{"updates": metrics[-1]["epsilon"]["updates"]}] * 3

    assert load_run(run.path).open_model(client="a", round=1).round == 1
    before = adapters(run)
    assert main(["train", "--resume", str(run.path)]) == 5
    assert "round 3 is not trained" in said(capfd) and run.read_json("manifest.json") == manifest
    assert main(["train", str(file), "training.rounds=2"]) == 0
    assert adapters(runs_of(tmp_path)[-1]) == before


@pytest.mark.slow
def test_a_budget_that_no_round_keeps_leaves_nothing_behind(private, tmp_path, capfd):
    file = private(training=SHORT, privacy={"updates": UPDATES, "budget": {"epsilon": 0.01}})
    for command in ("validate", "train"):
        assert main([command, str(file)]) == 5
        assert "round 1 is not trained" in said(capfd)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_frozen_clients_are_not_drawn_any_more_and_a_resumed_run_is_the_unbroken_one(private, tmp_path, capfd):
    file = private(training={**SHORT, "rounds": 5, "cohort": 0.6}, privacy=budget(3, then="freeze"))
    assert main(["train", str(file), "training.rounds=4"]) == 0
    (run,) = runs_of(tmp_path)
    assert main(["train", "--resume", str(run.path), "training.rounds=5"]) in (0, 5)
    assert main(["train", str(file)]) in (0, 5)
    whole = runs_of(tmp_path)[-1]
    assert adapters(run) == adapters(whole)
    metrics = whole.read_lines("metrics.jsonl")
    assert told(run) == told(whole)
    took_part = dict.fromkeys(("a", "b-1", "b-2"), 0)
    for line in metrics:
        assert not set(line["frozen"]) & set(line["participants"])
        assert all(took_part[client] == 3 for client in line["frozen"])
        for client in line["participants"]:
            took_part[client] += 1
    assert max(took_part.values()) == 3 and any(line["frozen"] for line in metrics)
    assert "privacy.budget freezes" in said(capfd)


def test_a_ledger_counts_what_earlier_runs_told_of_the_same_rows(private, tmp_path, capfd):
    """Two runs of two rounds are four rounds of one Gaussian mechanism, whoever held the rows."""
    ledger = tmp_path / "ledger.json"
    file = private(training=SHORT, privacy=budget(3))
    assert main(["train", str(file), "--ledger", str(ledger), "training.rounds=2"]) == 0
    (entry,) = json.loads(ledger.read_text(encoding="utf-8"))["runs"]
    told = {name: client["told"]["updates"] for name, client in entry["clients"].items()}
    assert entry["rounds"] == 2 and told["a"] == {"kind": "gaussian", "times": 2, "noise": Z, "rate": 1.0}
    capfd.readouterr()

    assert main(["train", str(file), "--ledger", str(ledger), "training.local_steps=2"]) == 2
    assert "seed: on the ledger is another experiment on the same rows" in said(capfd)
    # another seed deals the rows out anew: each client has rows that all three had, so that two rounds are 9 * 2
    assert main(["train", str(file), "--ledger", str(ledger), "seed=1"]) == 5
    assert f"epsilon {gaussian_epsilon(Z, 3 * 3 * 2 + 1, 1e-5):.4g} at delta 1e-05 with what earlier" in said(capfd)
    assert len(json.loads(ledger.read_text(encoding="utf-8"))["runs"]) == 1

    # the same experiment once more: one round is left
    assert main(["train", str(file), "--ledger", str(ledger)]) == 5
    assert "1 earlier run on it, with rows of 3 of 3 clients" in said(capfd)
    run = runs_of(tmp_path)[-1]
    assert run.read_json("manifest.json")["budget_stop"]["after_round"] == 1
    assert run.read_lines("metrics.jsonl")[-1]["spent"] == {"updates": gaussian_epsilon(Z, 3, 1e-5)}
    assert [each["rounds"] for each in json.loads(ledger.read_text(encoding="utf-8"))["runs"]] == [2, 1]


@pytest.mark.slow
def test_a_ledger_that_is_damaged_or_gone_is_an_error(private, tmp_path, capfd):
    ledger = tmp_path / "ledger.json"
    file = private(training={**SHORT, "rounds": 1}, privacy={"updates": UPDATES})
    ledger.write_text('{"format": "atlas privacy ledger 1", "runs": [{"run": 3}]}', encoding="utf-8")
    assert main(["train", str(file), "--ledger", str(ledger)]) == 3
    assert f"{ledger} is no privacy ledger of atlas, or is damaged" in said(capfd)
    assert main(["train", str(file), "--ledger", str(tmp_path / "no" / "ledger.json")]) == 3
    ledger.unlink()
    assert main(["train", str(file), "--ledger", str(ledger)]) == 0
    (run,) = runs_of(tmp_path)
    ledger.unlink()
    assert main(["train", "--resume", str(run.path), "training.rounds=2"]) == 3
    assert "has nothing of this run" in said(capfd)
    assert main(["train", str(file), "mode=local-only", "privacy.updates=null", "--ledger", str(ledger)]) == 2
    assert "mode: --ledger counts what clients send" in said(capfd)
