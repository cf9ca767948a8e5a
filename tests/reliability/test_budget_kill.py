"""A run with a budget and a ledger that is killed inside a round: resumed, it is the unbroken one, told once."""

from __future__ import annotations

import json
import time

import pytest
from support import warm

from atlas_cli.privacy.account.accounting import gaussian_epsilon

# trains, and stands still inside a local step of round 4, after the checkpoint of round 2
CHILD = """
import sys, time
from pathlib import Path
from atlas_cli.cli import main
from atlas_cli.experiment import session
real, count = session.Recorder.on_step, iter(range(1, 100))
def on_step(self, number):
    tell = real(self, number)
    def then(step, done):
        if next(count) == 7:
            Path(sys.argv[1]).touch()
            time.sleep(600)
        tell(step, done)
    return then
session.Recorder.on_step = on_step
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_kill_inside_a_round_spends_nothing_twice(chaos, write, train, tmp_path):
    privacy = {
        "updates": {"clip": 0.5, "noise_multiplier": 2.0, "where": "client"},
        "budget": {"epsilon": gaussian_epsilon(2.0, 3.5, 1e-5), "then": "freeze"},
    }
    path = write(
        seed=2,  # a client is frozen in round 4
        clients={"c": {"task_group": "g", "rank": 3}},
        training={"rounds": 5, "cohort": 0.6, "local_steps": 2},
        aggregation={"method": "zero-pad", "weights": "uniform"},
        checkpoints={"every": 2},
        privacy=privacy,
    )
    whole_ledger, ledger, inside = tmp_path / "whole.json", tmp_path / "ledger.json", tmp_path / "inside-a-round"
    code, whole = train(path, "--ledger", whole_ledger)
    frozen = [line["frozen"] for line in whole.read_lines("metrics.jsonl")]
    assert code == 0 and frozen[3] == [] and frozen[4]

    child = warm.start([str(inside), "train", str(path), "--ledger", str(ledger)], CHILD)
    while not inside.exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    child.kill()
    child.communicate()
    (killed,) = set((tmp_path / "runs").iterdir()) - {whole.path}
    assert sorted(folder.name for folder in (killed / "checkpoints").iterdir()) == ["round-000000", "round-000002"]
    (entry,) = json.loads(ledger.read_text(encoding="utf-8"))["runs"]
    assert entry["rounds"] == 4 and sorted(entry["frozen"]) == frozen[4]

    code, run = train("--resume", killed)
    assert code == 0 and run.path == killed
    assert set(chaos.differences(run, whole)) == {"manifest.json differs"}  # of the name and the file of the ledger
    of_both = [json.loads(file.read_text(encoding="utf-8"))["runs"] for file in (ledger, whole_ledger)]
    (resumed,), (unbroken,) = of_both
    assert {**resumed, "run": None, "started": None} == {**unbroken, "run": None, "started": None}
    assert resumed["run"] == entry["run"]
    assert run.read_json("manifest.json")["privacy"]["budget"] == whole.read_json("manifest.json")["privacy"]["budget"]
