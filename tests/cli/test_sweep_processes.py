"""Runs of a sweep in processes of their own: one that is killed, one that is interrupted, and what is left of them."""

import json
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from support.processes import when_training
from support.sweeps import train_here

from atlas_cli.cli import main
from atlas_cli.sweeps import trial
from atlas_cli.sweeps.child import train

if sys.platform == "win32":  # what one process can send another
    STOPS = [signal.CTRL_BREAK_EVENT]
else:
    STOPS = [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]


@pytest.mark.slow
def test_what_a_process_printed_last_is_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no other file is near
    log = tmp_path / "log"
    assert train(["nothing.yaml"], log) == ("nothing.yaml: no such file", False)
    assert log.read_text(encoding="utf-8") == "error: nothing.yaml: no such file\n"
    assert train(["--nothing"], log)[0].startswith("atlas train: no such option --nothing; ")


@pytest.mark.slow
def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise RuntimeError('of the user')", encoding="utf-8")
    assert train(["nothing.yaml"], tmp_path / "log")[0] == "nothing.yaml: no such file"


@pytest.mark.slow
def test_a_killed_run_does_not_end_the_sweep(config_file, tmp_path, capsys, monkeypatch):
    killer = threading.Thread(
        target=when_training, args=(tmp_path / "runs", lambda pid: psutil.Process(pid).kill()), daemon=True
    )
    killer.start()
    sweep = ["sweep", str(config_file(training={"local_steps": 1})), "training.rounds=25,1", "--json"]
    assert main(sweep) == 1
    killer.join()
    first, second = json.loads(capsys.readouterr().out)["runs"]
    assert first["status"] == "failed"
    assert sys.platform == "win32" or first["error"] == "killed by SIGKILL (out of memory?)"
    assert (second["status"], second["error"]) == ("finished", None)
    monkeypatch.setattr(trial, "train", train_here)  # what is left is done by whatever process
    assert main(sweep) == 0
    again, skipped = json.loads(capsys.readouterr().out)["runs"]
    assert (again["status"], again["run"]) == ("finished", first["run"])
    assert (skipped["status"], skipped["run"]) == ("skipped", second["run"])


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPS)
def test_stopped_by_a_signal(config_file, tmp_path, capsys, number):
    path = config_file(training={"rounds": 5000, "local_steps": 1})
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may ignore it
    code += "from atlas_cli.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "sweep", str(path), "seed=0,1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    sweep = subprocess.Popen(command, creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0), **pipes)
    when_training(tmp_path / "runs", lambda _: sweep.send_signal(number))
    out, err = sweep.communicate(timeout=60)
    assert (sweep.returncode, err) == (130, "stopping after this step; once more stops at once\n")
    assert "1 0    interrupted" in out and "2 1    not started" in out
    (run,) = (manifest.parent for manifest in (tmp_path / "runs").glob("*/manifest.json"))
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    assert not (run / "lock.json").exists()
    assert main(["sweep", str(path), "seed=0,1", "--dry-run", "--json"]) == 0
    assert [each["would"] for each in json.loads(capsys.readouterr().out)["runs"]] == ["resume", "run"]
