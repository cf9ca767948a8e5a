"""Trackers: whatever one does, those beside it are told of all rounds, and the run of nothing but a line."""

import sys
import threading

import pytest
from support.made_up_run import build, metrics_record

from atlas_cli import discovery
from atlas_cli.errors import ConfigError, OutputError
from atlas_cli.trackers import of_a_run
from atlas_cli.trackers.libraries.contract import BaseTracker
from atlas_cli.trackers.of_a_run import Trackers, load_trackers, tracked_run


class Fake(BaseTracker):
    """Keeps what it is told; raises, or hangs, in one hook."""

    def __init__(self, bad="", error=None):
        self.bad, self.error, self.told, self.hanging = bad, error, [], threading.Event()

    def _hook(self, name, *told):
        if self.bad == name and self.error is None:
            self.hanging.wait(30)
        elif self.bad == name:
            raise self.error
        self.told.append((name, *told))

    def start(self, run):
        print("a greeting that nobody asked for")
        self._hook("start", run)

    def log(self, round, figures):
        self._hook("log", round, figures)

    def finish(self, status, summary):
        self._hook("finish", status, summary)


@pytest.fixture
def tell(tmp_path):
    """Three rounds of a made-up run, told to trackers; gives the lines that were shown."""

    def call(**trackers):
        run, lines = build(tmp_path), []
        every = Trackers(trackers, lines.append)
        every.start(tracked_run(run.path, "example", {"seed": 3}, None), [])
        for round_ in range(3):
            memory = run.read_json("memory.json") if round_ == 1 else None
            every.after_round([metrics_record("spam", round_), metrics_record("prose", round_)], memory)
        every.finish("finished", run.read_json("memory.json"), 12.5)
        return lines

    return call


def test_a_tracker_is_told_of_the_run_every_round_and_the_end(tell, capsys):
    fake = Fake()
    assert tell(fake=fake) == []
    (_, run), *rounds, (_, status, summary) = fake.told
    assert (run.name, run.experiment, run.folder.name, run.resumed_after) == (
        run.folder.name,
        "example",
        run.name,
        None,
    )
    assert [number for _, number, _ in rounds] == [0, 1, 2]
    first, second = rounds[0][2], rounds[1][2]
    assert first["spam/test/accuracy"] == 0.85 and "spam/train_loss" not in first  # not known before training
    assert second["spam/bytes_up"] == 1_200_000 and second["memory/largest_client_bytes"] > 8e7
    assert (status, summary["seconds"], summary["prose/best"], summary["prose/best_round"]) == (
        "finished",
        12.5,
        40.0,
        2,
    )
    assert summary["spam/bytes_down"] == 45_000_000 + 2 * 1_100_000
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("hook", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [ValueError("no server\nat all"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_one_that_raises_is_left_out_with_one_line(tell, hook, error):
    bad, good = Fake(hook, error), Fake()
    (line,) = tell(bad=bad, good=good)
    assert line.startswith(f"warning: tracker bad is left out from here on: {hook}: {type(error).__name__}: ")
    assert "\n" not in line and len(line) < 400
    assert [name for name, *_ in good.told] == ["start", "log", "log", "log", "finish"]
    assert not any(name in (hook, "finish") for name, *_ in bad.told)


@pytest.mark.parametrize("hook", ["start", "log", "finish"])
def test_one_that_hangs_is_left_behind(tell, hook, monkeypatch):
    monkeypatch.setattr(of_a_run, "START_SECONDS", 0.1)
    monkeypatch.setattr(of_a_run, "FINISH_SECONDS", 0.1)
    bad, good = Fake(hook, None), Fake()
    (line,) = tell(bad=bad, good=good)
    bad.hanging.set()
    assert "has not ended after 0.1 s" in line and good.told[-1][:2] == ("finish", "finished")


def test_secrets_are_not_shown_and_a_full_disk_is_not_its_business(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    lines = []
    trackers = Trackers({"bad": Fake("log", ValueError("key 0123456789abcdef of http://me:pw@host"))}, lines.append)
    trackers.start(None, [])
    trackers.after_round([metrics_record("spam", 0)], None)
    trackers.finish("failed", None, None)
    assert "key *** of http://***@host" in lines[0]

    def full(line):
        raise OutputError("disk full")

    Trackers({"bad": Fake("start", ValueError("no"))}, full).start(None, [])


def test_a_config_names_trackers_that_are_there(monkeypatch):
    assert discovery.own_names("trackers.libraries") == ["mlflow", "tensorboard", "trackio", "wandb"]
    with pytest.raises(ConfigError, match=r"trackers\[1\]: 'wandbb' is not known; .*; did you mean wandb\?") as caught:
        monkeypatch.setitem(sys.modules, "tensorboard", type(sys)("tensorboard"))
        sys.modules["tensorboard"].__spec__ = type(sys)("x")
        load_trackers(["tensorboard", "wandbb"])
    assert caught.value.exit_code == 2
    monkeypatch.setattr(of_a_run, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"mlflow needs mlflow and sqlalchemy and alembic: pip install .*\[mlflow\]"):
        load_trackers(["mlflow"])
