"""A folder that is swapped in as a whole: all of it is on disk first, or the older one stays."""

import errno
import os
import threading
import time

import pytest

from atlas_cli.errors import OutputError
from atlas_cli.storage import whole_folder as module
from atlas_cli.storage.whole_folder import whole_folder

FILES = {f"clients/c{i}/{name}": f"{i} {name}".encode() for i in range(20) for name in ("a.json", "b.bin")}


class Syncs:
    """Counts syncs, those at one time too; the one numbered ``full`` finds the disk full."""

    def __init__(self, folder, full=None):
        self.folder, self.full, self.lock = folder, full, threading.Lock()
        self.done = self.now = self.most = self.seen = 0

    def __call__(self, handle):
        with self.lock:
            self.done, self.now = self.done + 1, self.now + 1
            self.most, self.seen = max(self.most, self.now), self.seen + (self.folder / "clients").exists()
            full = self.done == self.full
        time.sleep(0.005)
        with self.lock:
            self.now -= 1
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_all(folder):
    with whole_folder(folder) as write:
        for name, content in FILES.items():
            write(name, content)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_file_is_synced_before_any_is_seen_and_many_at_a_time(tmp_path, monkeypatch):
    folder = tmp_path / "adapters"
    (folder / "old").mkdir(parents=True)
    syncs = Syncs(folder)
    monkeypatch.setattr(module.os, "fsync", syncs)
    write_all(folder)
    assert (syncs.done, syncs.seen) == (len(FILES), 0)
    assert syncs.most > 1  # one after the other is a journal's commit each
    assert content(folder) == FILES
    assert os.listdir(tmp_path) == ["adapters"]


def test_what_cannot_be_synced_leaves_the_older_one(tmp_path, monkeypatch):
    folder = tmp_path / "adapters"
    write_all(folder)
    monkeypatch.setitem(FILES, "clients/c0/a.json", b"new")
    monkeypatch.setattr(module.os, "fsync", Syncs(folder, full=30))
    with pytest.raises(OutputError, match="no space left on"):
        write_all(folder)
    assert content(folder)["clients/c0/a.json"] == b"0 a.json"
    assert os.listdir(tmp_path) == ["adapters"]


def test_who_stops_it_does_not_wait_for_files_that_are_not_begun(tmp_path, monkeypatch):
    folder, told = tmp_path / "adapters", []
    write_all(folder)
    before = content(folder)
    syncs = Syncs(folder)
    monkeypatch.setattr(module.os, "fsync", syncs)

    def tell(*counted):
        told.append(counted)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), whole_folder(folder, tell) as write:
        for name in FILES:
            write(name, b"new")
    assert told == [("syncing", done, 40) for done in (1, 2, 3)]
    assert 3 <= syncs.done <= 3 + 3 * module.SYNCING
    assert content(folder) == before and os.listdir(tmp_path) == ["adapters"]


def test_a_stop_between_the_two_moves_leaves_the_older_one(tmp_path, monkeypatch):
    folder = tmp_path / "adapters"
    write_all(folder)
    before, move = content(folder), module.move

    def stopped(source, target):
        move(source, target)
        if source == folder:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "move", stopped)
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as write:
        write("clients/c0/a.json", b"new")
    assert content(folder) == before and os.listdir(tmp_path) == ["adapters"]


def test_older_files_are_counted_as_they_are_removed_and_a_stop_there_leaves_the_new_ones(tmp_path):
    folder, told = tmp_path / "adapters", []
    write_all(folder)

    def tell(*counted):
        told.append(counted)
        if counted[:2] == ("removing older", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), whole_folder(folder, tell) as write:
        write("new.json", b"new")
    assert told == [("syncing", 1, 1), *(("removing older", done, 40) for done in (0, 1, 2))]
    assert content(folder) == {"new.json": b"new"}
    write_all(folder)
    assert content(folder) == FILES and os.listdir(tmp_path) == ["adapters"]
