"""A disk that fills up at any write: one line that says so, the last checkpoint whole, and the run goes on later."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import warm

from atlas_cli.cli import main
from atlas_cli.runs import directory
from atlas_cli.runs.checkpoint import folders, load_newest
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.run_lock import OWNER


class Disk:
    """Lets ``room`` syncs pass; every later one of a file finds the disk full."""

    def __init__(self):
        self.real, self.room, self.count = os.fsync, 10**9, 0

    def fsync(self, handle):
        self.count += 1
        if self.count > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.real(handle)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(directory.os, "fsync", disk.fsync)
    return disk


def one_line(err):
    (line,) = err.splitlines()
    assert line.startswith("error: no space left on ") and "; free some" in line
    return line


@pytest.mark.slow
def test_full_at_every_write(write, train, chaos, disk, capsys):
    path = write(training={"rounds": 2, "local_steps": 1, "max_length": 32})
    _, whole = train(path)
    writes, stopped = disk.count, 0
    for room in range(0, writes, 5):
        disk.count, disk.room = 0, room
        capsys.readouterr()
        before = set(whole.path.parent.iterdir())
        assert main(["train", str(path)]) == 1
        line = one_line(capsys.readouterr().err)
        disk.room = 10**9
        made = set(whole.path.parent.iterdir()) - before
        if room == 0:  # not even the manifest could be written
            assert not made
            continue
        run = RunDirectory(*made)
        assert not (run.path / OWNER).exists() and not list(run.path.rglob("*.partial"))
        if not folders(run):
            assert "--resume" not in line
            continue
        assert load_newest(run)[1] == [] and line.endswith(f"atlas train --resume {run.path}")
        assert main(["train", "--resume", str(run.path)]) == 0
        assert chaos.differences(run, whole) == []
        stopped += 1
    assert stopped >= 5


LIMITED = """
import os, resource, signal, sys
os.environ["MPLCONFIGDIR"] = "/tmp"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
import atlas_cli.experiment.session, matplotlib.font_manager  # whose cache of fonts is larger than the limit
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from atlas_cli.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on files")
def test_a_real_limit_on_files(write, chaos):
    """RLIMIT_FSIZE: the kernel refuses the part of a write that is too much."""
    path = write(training={"rounds": 24, "local_steps": 1})
    runs = Path(yaml.safe_load(path.read_text(encoding="utf-8"))["output"]["dir"])

    def limited(limit):
        process = warm.start([str(limit), "train", str(path)], LIMITED)
        return process.communicate()[1], process.returncode

    assert limited(2**30)[1] == 0
    whole = RunDirectory(*runs.iterdir())
    least, largest = ((whole.path / name).stat().st_size for name in ("manifest.json", "messages.jsonl"))
    assert least < largest  # between them a run begins, and does not end
    for limit in (1000, (least + largest) // 2, largest - 1):
        before = set(runs.iterdir())
        error, code = limited(limit)
        assert code == 1 and len(error.splitlines()) == 1, error
        assert "File too large" in error and "Traceback" not in error
        made = set(runs.iterdir()) - before
        if limit < least:
            assert not made  # without room for config and manifest nothing is left
            continue
        run = RunDirectory(*made)
        assert folders(run)
        assert main(["train", "--resume", str(run.path)]) == 0
        assert chaos.differences(run, whole) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("this process may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_small_file_system(write, train, small_disk, capsys):
    path = write(output={"dir": str(small_disk)}, checkpoints={"keep": 50}, training={"rounds": 50, "local_steps": 1})
    assert main(["train", str(path)]) == 1
    one_line(capsys.readouterr().err)
    (made,) = Path(small_disk).iterdir()
    run = RunDirectory(made)
    assert load_newest(run)[1] == [] and not (run.path / OWNER).exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert main(["train", "--resume", str(made), "checkpoints.keep=1"]) == 0
    assert [folder.name for folder in folders(run)] == ["round-000050"]
    assert run.read_json("manifest.json")["status"] == "finished"
