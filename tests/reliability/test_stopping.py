"""Ctrl-C, SIGTERM and errors: what is kept, what is said, and that the run goes on to the same end."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from datetime import UTC, datetime

import pytest

from atlas_cli.cli import main
from atlas_cli.errors import NonFiniteError
from atlas_cli.experiment import adapter_export, early_end, end_of_run, session
from atlas_cli.reports.page import live
from atlas_cli.reports.page.report import page
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_lock import OWNER


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C as in a terminal: shells start jobs in the background with SIGINT ignored, and that stays ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number, times=1):
    def action():
        for _ in range(times):
            signal.raise_signal(number)

    return action


def kept(run):
    return [folder.name for folder in folders(run)]


def goes_on_to_the_same_end(err, run, whole, chaos):
    """Follow the advice of the last line on standard error."""
    words = shlex.split(err.splitlines()[-1].partition("to go on: ")[2])
    assert words == ["atlas", "train", "--resume", str(run.path)]
    assert main(words[1:]) == 0
    assert chaos.differences(run, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, getattr(signal, "SIGBREAK", signal.SIGTERM)])
def test_a_signal_stops_after_the_step(write, train, at_step, chaos, capfd, number):
    path = write()
    _, whole = train(path)
    before = signal.getsignal(number)
    at_step(3, send(number))  # the first step of round 2
    code, run = train(path)
    assert code == 130
    assert signal.getsignal(number) == before and not (run.path / OWNER).exists()
    manifest = run.read_json("manifest.json")
    assert (manifest["status"], manifest["error"]) == ("interrupted", None)
    assert kept(run) == ["round-000000", "round-000001"]
    err = capfd.readouterr().err
    assert f"{number.name}: stopping after this step; once more stops at once" in err
    assert err.splitlines()[-1] == f"error: interrupted; round 1 is kept; to go on: atlas train --resume {run.path}"
    goes_on_to_the_same_end(err, run, whole, chaos)


def test_a_signal_while_the_folder_is_made_leaves_one_that_says_what_it_is(write, train, monkeypatch):
    create = RunDirectory.create

    def interrupted(*arguments):
        run = create(*arguments)
        signal.raise_signal(signal.SIGINT)
        return run

    monkeypatch.setattr(RunDirectory, "create", interrupted)
    code, run = train(write())
    assert code == 130
    assert run.read_json("manifest.json")["status"] == "interrupted" and (run.path / "config.yaml").exists()


@pytest.mark.slow
def test_what_is_kept_is_no_damaged_checkpoint(write, train, at_step, chaos, capsys):
    path = write()
    _, whole = train(path)
    at_step(5, send(signal.SIGINT))  # in round 3
    _, run = train(path)
    state = run.path / "checkpoints" / "round-000002" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    at_step(1, send(signal.SIGINT))  # in round 2, which is done again
    code, run = train("--resume", run.path)
    err = capsys.readouterr().err
    assert code == 130 and kept(run) == ["round-000001"]
    assert "round 1 is kept" in err.splitlines()[-1]
    goes_on_to_the_same_end(err, run, whole, chaos)


@pytest.mark.slow
def test_a_reader_that_is_gone_ends_the_run_in_order(write, train, at_step, chaos, capfd, monkeypatch):
    path = write()
    _, whole = train(path)
    read, written = os.pipe()
    at_step(3, lambda: os.close(read))  # as `| head` does; the line of round 2 has no reader
    with os.fdopen(written, "w") as stdout, monkeypatch.context() as pipe:
        pipe.setattr(sys, "stdout", stdout)
        code, run = train(path)
    assert code == 1
    manifest = run.read_json("manifest.json")
    assert (manifest["status"], manifest["error"]) == ("failed", "nobody reads standard output any more")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {manifest['error']}; round {manifest['adapters_of_round']} is kept; to go on: ")
    goes_on_to_the_same_end(line, run, whole, chaos)


@pytest.mark.slow
def test_with_rare_checkpoints_the_last_whole_round_is_kept(write, train, at_step, chaos, capsys):
    path = write(training={"rounds": 4, "local_steps": 2}, checkpoints={"every": 4, "keep": 1})
    _, whole = train(path)
    assert kept(whole) == ["round-000004"]
    at_step(6, send(signal.SIGINT))  # the last step of round 3, which is not aggregated yet
    code, run = train(path)
    assert code == 130 and kept(run) == ["round-000002"]
    goes_on_to_the_same_end(capsys.readouterr().err, run, whole, chaos)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(write, train, at_step):
    at_step(3, send(signal.SIGINT, times=2))
    code, run = train(write())
    assert code == 130 and not (run.path / OWNER).exists()
    assert run.read_json("manifest.json")["status"] == "interrupted" and not (run.path / "adapters").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["export_adapters", "write_report"])
def test_a_signal_after_training(write, train, chaos, monkeypatch, capsys, where):
    path = write()
    _, whole = train(path)
    with monkeypatch.context() as patch:
        patch.setattr(end_of_run, where, lambda *a: send(signal.SIGTERM)())
        code, run = train(path)
    assert code == 130 and run.read_json("manifest.json")["status"] == "interrupted"
    goes_on_to_the_same_end(capsys.readouterr().err, run, whole, chaos)


class Stop:
    """Sends SIGTERM when so many adapters are begun, and counts those that are begun."""

    def __init__(self, monkeypatch, at):
        self.at, self.begun = at, 0
        monkeypatch.setattr(PlainProgress, "doing", lambda _, what, *counted: self(what))

    def __call__(self, what):
        self.begun += what == "writing adapters/"
        if self.begun == self.at:
            self.at, self.sent = 0, datetime.now(UTC)
            send(signal.SIGTERM)()


@pytest.mark.slow
def test_a_signal_while_adapters_are_written_is_answered_before_the_next(write, train, chaos, monkeypatch, capsys):
    path = write()
    _, whole = train(path)
    with monkeypatch.context() as patch:
        stop = Stop(patch, at=2)  # of a group and two clients
        code, run = train(path)
    assert (code, stop.begun) == (130, 2)
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == (
        "error: interrupted; all 3 rounds are kept, and only adapters and the report are left to write; to go on: "
        f"atlas train --resume {run.path}"
    )
    assert not (run.path / "adapters").exists() and not list(run.path.glob(".*.tmp"))
    manifest = run.read_json("manifest.json")
    assert manifest["status"] == "interrupted" and "adapters_of_round" not in manifest
    written = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Interrupted after round 3 of 3. All rounds are done; there are no trained adapters." in written
    assert main(["runs", str(run.path.parent)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"interrupted: all rounds are done; to write what is left: atlas train --resume {run.path}" in shown
    goes_on_to_the_same_end(err, run, whole, chaos)
    assert "has all its rounds, and what is left is written" in (run.path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_with_adapters_written_the_report_alone_is_left(write, train, monkeypatch, capsys):
    monkeypatch.setattr(end_of_run, "write_report", lambda *a: send(signal.SIGTERM)())
    code, run = train(write())
    assert code == 130 and "all 3 rounds are kept, and only the report is left to write" in capsys.readouterr().err
    assert run.read_json("manifest.json")["adapters_of_round"] == 3 and (run.path / "adapters").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "failed"])
def test_one_more_signal_while_the_last_whole_round_is_left_stops_at_once(write, train, at_step, monkeypatch, how):
    def fail():
        raise NonFiniteError("loss of client a")

    at_step(3, send(signal.SIGINT) if how == "interrupted" else fail)
    stop = Stop(monkeypatch, at=2)
    code, run = train(write())
    assert (code, stop.begun) == (130 if how == "interrupted" else 4, 2)
    manifest = run.read_json("manifest.json")
    assert manifest["status"] == how and not (run.path / "adapters").exists()
    assert datetime.fromisoformat(manifest["ended"]) >= stop.sent  # what was waited for is in the duration
    assert not (run.path / OWNER).exists()


@pytest.mark.slow
def test_a_signal_while_best_adapters_are_written_leaves_the_manifest_with_the_round_of_adapters(
    write, train, at_step, monkeypatch
):
    monkeypatch.setattr(adapter_export, "export_best", lambda *a: send(signal.SIGTERM)())
    at_step(3, send(signal.SIGINT))
    _, run = train(write(holdout={"validation": 4}))
    assert (run.path / "adapters").is_dir() and run.read_json("manifest.json")["adapters_of_round"] == 1


@pytest.mark.slow
def test_the_duration_of_an_interrupted_run_has_the_time_that_its_adapters_took(write, train, at_step, monkeypatch):
    real, began = early_end.export_last_round, []

    def slow(*arguments):
        began.append(datetime.now(UTC))
        time.sleep(0.05)
        return real(*arguments)

    monkeypatch.setattr(early_end, "export_last_round", slow)
    at_step(3, send(signal.SIGINT))
    _, run = train(write(engine={"offload": "1 MiB"}))
    manifest = run.read_json("manifest.json")
    (part,) = manifest["parts"]
    assert manifest["ended"] == part["ended"] and manifest["duration_s"] == part["duration_s"]
    assert (datetime.fromisoformat(part["ended"]) - began[0]).total_seconds() >= 0.05
    assert part["status"] == "interrupted" and part["engine"] == manifest["engine"] != {}


@pytest.mark.slow
def test_a_bug_leaves_its_traceback_in_the_log(write, train, at_step, chaos, capsys):
    path = write(checkpoints={"every": 3})
    _, whole = train(path)

    def bug():
        raise IndexError("a bug\nin two lines")

    at_step(6, bug)
    capsys.readouterr()
    code, run = train(path)
    assert code == 1 and not (run.path / OWNER).exists()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and len(err.splitlines()) == 1
    log = run.path / "log.txt"
    assert err == (
        f"error: unexpected IndexError: a bug in two lines, in round 3; the traceback is in {log}; round 2 is kept; "
        f"to go on: atlas train --resume {run.path}\n"
    )
    assert "Traceback (most recent call last)" in log.read_text(encoding="utf-8") and "in bug" in log.read_text(
        encoding="utf-8"
    )
    assert run.read_json("manifest.json")["status"] == "failed"
    goes_on_to_the_same_end(err, run, whole, chaos)
    at_step(1, bug)
    with pytest.raises(IndexError):
        main(["train", "--debug", str(path)])


def test_an_error_before_the_first_checkpoint_names_none(write, train, monkeypatch, capsys):
    monkeypatch.setattr(session, "train", lambda *a: 1 / 0)
    code, run = train(write())
    assert code == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and str(run.path / "log.txt") in err and "--resume" not in err


def test_a_signal_that_the_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with session.Stopping():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


CASES = {
    "plain": {},
    "shrinks": {"aggregation": {"method": "hetlora", "options": {"prune": 0.5, "penalty": 1.0}}, "mode": "federated"},
    "changes the base": {"aggregation": {"method": "flora"}, "lora": {"dropout": 0.1}},
    "away": {"engine": {"offload": "1 KiB"}, "training": {"labels": "client"}},
}


def adapters(run):
    return {path.relative_to(run.path): path.read_bytes() for path in run.path.glob("adapters/*/*/*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("changes the base", "interrupted"),
        ("plain", "failed"),
        *((case, "interrupted") for case in CASES if case != "changes the base"),
        ("changes the base", "failed"),
    ],
)
def test_adapters_of_the_last_whole_round_and_a_report_are_left(write, train, at_step, case, how):
    """The adapters of a run that stopped in round 3 are those of one of two rounds, to the byte."""
    changes = {**CASES[case], "training": {"rounds": 3, "local_steps": 2, **CASES[case].get("training", {})}}
    shorter = train(write(**changes), "training.rounds=2")[1]

    def stop():
        raise NonFiniteError("loss of client a is <nan>") if how == "failed" else KeyboardInterrupt

    at_step(6, stop)
    code, run = train(write(**changes))
    assert code == {"interrupted": 130, "failed": 4}[how]
    manifest = run.read_json("manifest.json")
    assert (manifest["status"], manifest["adapters_of_round"]) == (how, 2)
    assert adapters(run) == adapters(shorter) != {}
    assert {path.name for path in run.path.iterdir() if path.name.endswith(".tmp")} == set()
    assert (run.path / "report.html").exists() and "not written" not in (run.path / "log.txt").read_text(
        encoding="utf-8"
    )
    text = page(run)
    assert f"{how.capitalize()} after round 2 of 3" in text and "adapters/ is of round 2" in text
    assert ("loss of client a is &lt;nan&gt;" in text) == (how == "failed")
    assert train("--resume", run.path)[0] == 0
    assert run.read_json("manifest.json")["adapters_of_round"] == 3 and adapters(run) != adapters(shorter)
    assert "unfinished" not in page(run).partition("</style>")[2]


@pytest.mark.slow
def test_the_report_grows_while_the_run_goes_on(write, train, at_step, tmp_path, monkeypatch):
    """In the middle of a round the page has the rounds before it, those of an earlier process, too."""
    monkeypatch.setattr(live, "SHARE", 1e9)  # after every round, though these take less time than a page
    seen = []

    def look_and_stop():
        seen.append(next(tmp_path.glob("runs/*/report.html")).read_text(encoding="utf-8"))
        send(signal.SIGINT)()

    at_step(3, look_and_stop)  # the first step of round 2
    _, run = train(write())
    at_step(3, look_and_stop)  # the first step of round 3, in a process that began with round 2
    train("--resume", run.path)
    for text, done in zip(seen, (1, 2), strict=True):
        assert (
            f"Going on after round {done} of 3" in text and "before training" in text and 'http-equiv="refresh"' in text
        )
    assert "Interrupted after round 2 of 3" in page(run) and "refresh" not in page(run)


@pytest.mark.slow
def test_what_cannot_be_left_is_told_in_the_log_and_hides_nothing(write, train, at_step, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no room")

    monkeypatch.setattr(early_end, "export_last_round", broken)
    at_step(3, send(signal.SIGINT))
    code, run = train(write())
    assert code == 130 and capsys.readouterr().err.splitlines()[-1].startswith("error: interrupted; round 1 is kept")
    assert "were not written: RuntimeError: no room" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert "adapters_of_round" not in run.read_json("manifest.json")
