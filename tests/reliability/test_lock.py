"""Two processes never write to one run directory; the lock of one that is gone is in nobody's way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from atlas_cli.errors import OutputError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.lock import LOCK, locked, owner_of

CHILD = """
import sys, time
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.lock import locked
with locked(RunDirectory(__import__("pathlib").Path(sys.argv[1])), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "toy", 0)


@pytest.fixture
def child(run):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def take(run, notes=None):
    with locked(run, (notes if notes is not None else []).append):
        return json.loads((run.path / LOCK).read_text())


def forge(run, **changes):
    with locked(run, print):
        real = json.loads((run.path / LOCK).read_text())
    (run.path / LOCK).write_text(json.dumps({**real, **changes}))


def test_it_names_its_owner_and_is_removed(run):
    assert take(run)["pid"] == os.getpid()
    assert {path.name for path in run.path.iterdir()} == {"log.txt"}
    with pytest.raises(KeyError), locked(run, print):
        raise KeyError
    assert owner_of(run) is None


def test_a_living_owner_keeps_others_out(run, child):
    before = (run.path / LOCK).read_bytes()
    with pytest.raises(OutputError, match=rf"process {child.pid} on this host \({socket.gethostname()}\)") as caught:
        take(run)
    assert caught.value.exit_code == 1 and (run.path / LOCK).read_bytes() == before


def test_a_dead_owner_is_replaced_with_a_note(run, child):
    child.send_signal(signal.SIGKILL)
    notes = []
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but a zombie that still has its pid
    assert take(run, notes)["pid"] == os.getpid()
    assert notes == [f"{run.path}: took over the lock of process {child.pid}, which is gone"]
    assert f"process {child.pid}, which is gone" in (run.path / "log.txt").read_text()


def test_a_reused_pid_is_not_taken_for_the_owner(run, child):
    (run.path / LOCK).unlink()
    forge(run, pid=child.pid, started="long ago")
    assert take(run)["pid"] == os.getpid()
    forge(run, pid=child.pid, started=None)  # not known when it started: it may be the owner
    with pytest.raises(OutputError, match=f"process {child.pid}"):
        take(run)


def test_another_host_cannot_be_asked(run):
    forge(run, host="elsewhere", pid=2**22 + 5)
    with pytest.raises(OutputError, match=rf"on host elsewhere; if that process is gone, remove {run.path / LOCK}"):
        take(run)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"pid": 1}',
        '{"pid": -1, "host": "h", "started": null}',
        '{"pid": true, "host": "h", "started": null}',
        '{"pid": 1e99, "host": "h", "started": null}',
        '{"pid": 99999999999999999999, "host": "h", "started": null}',
        "[" * 4000,
        " " * 5000,
    ],
)
def test_a_lock_that_says_nothing_is_an_error_that_names_the_file(run, content):
    (run.path / LOCK).write_text(content)
    with pytest.raises(OutputError, match=f"{run.path / LOCK} cannot be read .*remove it if no process writes"):
        take(run)
    assert (run.path / LOCK).read_text() == content


def test_of_many_that_take_over_at_once_one_wins(run):
    forge(run, pid=2**22 + 5, started="long ago")
    inside, refused, worst, go = [], [], [], threading.Barrier(8)

    def contend():
        go.wait()
        try:
            with locked(run, lambda _: None):
                inside.append(1)
                worst.append(len(inside))
                threading.Event().wait(0.2)
                inside.pop()
        except OutputError:
            refused.append(1)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(worst) == {1} and len(worst) + len(refused) == 8 and refused


def test_without_hard_links(run, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    with locked(run, print), pytest.raises(OutputError, match=f"process {os.getpid()}"):
        take(run)
    assert {Path(p).name for p in os.listdir(run.path)} == {"log.txt"}
