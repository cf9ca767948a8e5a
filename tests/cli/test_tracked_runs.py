"""Trackers of a run of ``atlas train``: told of it and of how it goes on, and no run fails with them."""

import json
from pathlib import Path

import pytest

from atlas_cli.cli import main
from atlas_cli.experiment import session
from atlas_cli.trackers.libraries.contract import BaseTracker


class _Told(BaseTracker):
    def __init__(self, bad=None):
        self.bad, self.told = bad, []

    def _hook(self, name, *what):
        if name == self.bad:
            raise RuntimeError(f"{name} is broken")
        self.told.append((name, *what))

    def start(self, run):
        self._hook("start", run.resumed_after)

    def log(self, round, figures):
        self._hook("log", round, sorted(figures))

    def finish(self, status, summary):
        self._hook("finish", status, sorted(summary))


@pytest.mark.slow
def test_a_run_and_its_resumption_are_told_and_broken_trackers_cost_a_line_each(config_file, monkeypatch, capsys):
    made = []

    def load(names):
        made.append({"good": _Told(), **{f"no-{hook}": _Told(hook) for hook in ("start", "log", "finish")}})
        return made[-1]

    monkeypatch.setattr(session, "load_trackers", load)
    assert main(["train", str(config_file()), "--json"]) == 0
    said = capsys.readouterr()
    run = Path(json.loads(said.out)["run"])
    told = [(name, first) for name, first, *_ in made[-1]["good"].told]
    assert told == [("start", None), ("log", 0), ("log", 1), ("log", 2), ("finish", "finished")]
    figures = {name: set(found) for name, _, *rest in made[-1]["good"].told for found in rest}
    assert {"g/test/accuracy", "g/bytes_up", "g/train_loss"} <= figures["log"]
    assert {"g/best", "g/bytes_down", "memory/largest_client_bytes", "seconds"} <= figures["finish"]
    log = (run / "log.txt").read_text(encoding="utf-8")
    for hook in ("start", "log", "finish"):
        line = f"warning: tracker no-{hook} is left out from here on: {hook}: RuntimeError: {hook} is broken"
        assert said.err.count(line) == log.count(line) == 1
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["status"] == "finished"

    assert main(["train", "--resume", str(run), "training.rounds=3", "--json"]) == 0
    told = [(name, first) for name, first, *_ in made[-1]["good"].told]
    assert told == [("start", 2), ("log", 3), ("finish", "finished")]
