"""Folders that a killed process left are removed by whoever comes next, those of a living one never."""

import subprocess
import sys
import threading

import pytest

from atlas_cli.storage.scratch_folders import CACHED, OFFLOAD, PREFIX_CACHE, Scratch, clear

CHILD = """
import sys, time
from pathlib import Path
from atlas_cli.storage.scratch_folders import OFFLOAD, Scratch
held = Scratch(Path(sys.argv[1]), OFFLOAD)
(held.path / "x.safetensors").write_text("x")
print(held.path.name, flush=True)
time.sleep(60)
"""


@pytest.fixture
def child(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_what_a_killed_process_left(tmp_path, child):
    process, name = child
    assert clear(tmp_path, OFFLOAD, PREFIX_CACHE) == [] and (tmp_path / name / "x.safetensors").exists()
    process.kill()
    process.wait()
    assert clear(tmp_path, PREFIX_CACHE) == []
    assert clear(tmp_path, OFFLOAD, PREFIX_CACHE) == [name] and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a link needs a privilege there")
def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / ".tmp-of-a-user").mkdir()
    (tmp_path / ".tmp-of-a-user" / "thesis.txt").write_text("x", encoding="utf-8")
    (tmp_path / ".tmp-file").write_text("x", encoding="utf-8")
    (tmp_path / ".tmp-link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / ".tmp-killed").mkdir()  # before it was locked
    assert clear(tmp_path, CACHED) == [".tmp-killed"]
    assert {path.name for path in tmp_path.iterdir()} == {".tmp-of-a-user", ".tmp-file", ".tmp-link"}
    assert clear(tmp_path / "nothing", CACHED) == []


@pytest.mark.slow
def test_no_living_folder_is_lost_however_often_others_clear(tmp_path):
    done = threading.Event()

    def clear_all_the_time():
        while not done.is_set():
            clear(tmp_path, CACHED)

    thread = threading.Thread(target=clear_all_the_time)
    thread.start()
    try:
        for _ in range(100):
            with Scratch(tmp_path, CACHED) as folder:
                (folder / "x").write_text("x", encoding="utf-8")
                assert (folder / "x").read_text(encoding="utf-8") == "x"
    finally:
        done.set()
        thread.join()
    clear(tmp_path, CACHED)
    assert list(tmp_path.iterdir()) == []
