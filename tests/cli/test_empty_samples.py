"""Poisson samples that are empty: for one client, for all, in the first round and in every other."""

import pytest
from support.toy_runs import train

from atlas_cli.cli import main
from atlas_cli.federation import batches
from atlas_cli.runs.directory import RunDirectory

DEVICE = {"memory": "2 GiB", "compute": "20 GFLOP/s", "uplink": "10 Mbit/s", "downlink": "50 Mbit/s"}
PRIVATE = {
    "privacy": {"examples": {"clip": 0.1, "noise_multiplier": 1.0}},
    "aggregation": {"weights": "uniform"},
    "server": {"rank": 0},
    "devices": {"phone": DEVICE},
    "clients": {name: {"device": "phone"} for name in "ab"},
}


@pytest.fixture
def empty(monkeypatch):
    """``empty(when)``: samples of (client, step over all rounds) for which ``when`` holds are empty."""
    real = batches.poisson_indices

    def make(when):
        def sample(count, rate, seed, client, step):
            return [] if when(client, step) else real(count, rate, seed, client, step)

        monkeypatch.setattr(batches, "poisson_indices", sample)

    return make


@pytest.mark.slow
def test_all_of_them(config_file, empty, capsys, tmp_path):
    empty(lambda client, step: True)
    assert main(["train", str(config_file(**PRIVATE, training={"labels": "client"}))]) == 0
    (run,) = map(RunDirectory, (tmp_path / "runs").iterdir())
    memory = run.read_json("memory.json")
    assert (memory["clients"], memory["server"]) == ({}, None)
    assert memory["not_measured"] == ["a", "b-1", "b-2", "the server"]
    assert "no client" in memory["references"]["unsplit_lora"]["how"]
    metrics = run.read_lines("metrics.jsonl")
    assert [(line["train_loss"], line["examples"]) for line in metrics] == [(None, 0)] * 3
    assert all(line["simulated_seconds"] for line in metrics[1:])
    steps = [(line["steps"], line["train_loss"]) for line in run.read_lines("clients.jsonl") if line["round"] == 1]
    assert steps == [(2, None)] * 3
    capsys.readouterr()
    assert main(["memory-report", str(run.path)]) == 0
    assert "without a step in round 1: a, b-1, b-2, the server" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_those_of_one_client_in_one_round(config_file, empty, mode):
    empty(lambda client, step: client == "a" and step < 2)
    training = {"labels": "client"} if mode == "split-federated" else {}
    run = train(config_file(**PRIVATE, mode=mode, training=training))
    memory = run.read_json("memory.json")
    assert list(memory["clients"]) == ["b-1", "b-2"] and memory["not_measured"] == ["a"]
    losses = {(r["round"], r["client"]): r["train_loss"] for r in run.read_lines("clients.jsonl")}
    assert losses[1, "a"] is None and losses[2, "a"] is not None and losses[1, "b-1"] is not None
