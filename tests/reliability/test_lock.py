"""Two processes never write to one run directory; what one that is gone left is in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading

import filelock
import pytest

from atlas_cli.errors import OutputError
from atlas_cli.runs import run_lock as lock_module
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_lock import OWNER, locked, writer_of

CHILD = """
import sys, time
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_lock import locked
with locked(RunDirectory(__import__("pathlib").Path(sys.argv[1])), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "toy", 0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock_module, "_PATIENCE", 0.1)


@pytest.fixture
def child(run):
    """Another process that holds the lock, in another time zone."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(run.path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TZ": "Pacific/Kiritimati"},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def take(run, notes=None):
    with locked(run, (notes if notes is not None else []).append):
        return json.loads((run.path / OWNER).read_text(encoding="utf-8"))


def test_it_names_its_owner_and_is_removed(run):
    owner = take(run)
    assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname()) and owner["command"] == sys.argv
    assert not (run.path / OWNER).exists()
    with pytest.raises(KeyError), locked(run, print):
        raise KeyError
    assert not (run.path / OWNER).exists() and writer_of(run) is None


def test_a_living_owner_keeps_others_out(run, child):
    before = (run.path / OWNER).read_bytes()
    words = rf"process {child.pid} on host {socket.gethostname()} since .*\+14:00"
    with pytest.raises(OutputError, match=words) as caught:
        take(run)
    assert caught.value.exit_code == 1 and (run.path / OWNER).read_bytes() == before
    assert f"process {child.pid} on host" in writer_of(run)


@pytest.mark.parametrize(
    "claim",
    [
        {"pid": 2**22 + 5, "host": socket.gethostname(), "started": "1970-01-01", "command": []},  # a pid of nobody
        {"pid": 1, "host": "another-container", "started": "1970-01-01", "command": ["\x1b[31m" + "x" * 500]},
        None,
        [],
        "[" * 4000,
    ],
    ids=["gone", "elsewhere", "null", "list", "deep"],
)
def test_what_the_file_says_does_not_decide(run, child, claim):
    """Of another PID namespace, a living owner looks like one that is gone, or like one that cannot be asked."""
    (run.path / OWNER).write_text(claim if isinstance(claim, str) else json.dumps(claim), encoding="utf-8")
    with pytest.raises(OutputError, match="is written by ") as caught:
        take(run)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 700
    child.kill()
    child.wait()
    assert take(run)["pid"] == os.getpid()


def test_the_system_frees_the_lock_of_a_killed_owner(run, child):
    child.kill()
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but a zombie that still has its pid
    else:
        child.wait()
    assert writer_of(run) is None
    notes = []
    assert take(run, notes)["pid"] == os.getpid()
    (note,) = notes
    assert note.startswith(f"{run.path}: took over from process {child.pid} on host") and "gone" in note
    assert f"process {child.pid} on host" in (run.path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs namespaces of processes")
def test_between_containers(run, child):
    """A process that sees no pid of the owner's, as in a container that shares the volume."""
    command = ["unshare", "--pid", "--fork", "--uts", sys.executable, "-c", CHILD, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 1 and f"is written by process {child.pid}" in done.stderr


def test_of_many_at_once_one_wins(run):
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


@pytest.mark.skipif(sys.platform == "win32", reason="its file systems all have locks")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOLCK, "file system without locks .*output.dir"),
        (errno.ENOSYS, "file system without locks .*output.dir"),
        (errno.EOPNOTSUPP, "file system without locks .*output.dir"),
        (errno.EROFS, "cannot write .*make it writable"),
    ],
)
def test_a_file_system_that_has_no_locks_is_refused(run, monkeypatch, code, words):
    def refuse(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", refuse)
    with pytest.raises(OutputError, match=words):
        take(run)
    assert not (run.path / OWNER).exists()


def test_nobody_is_asked_where_nobody_wrote(run):
    assert writer_of(run) is None and {path.name for path in run.path.iterdir()} == {"log.txt"}
