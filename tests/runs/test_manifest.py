import json
import platform
import subprocess

import pytest

from atlas_cli.runs import manifest as module
from atlas_cli.runs.manifest import end_manifest, start_manifest
from atlas_cli.storage.secrets import mask_command


def start(config=None, command=()):
    model = {"name": "minilm", "source": "packaged", "sha256": "0" * 64, "n_parameters": 22, "init": "pretrained"}
    data = {"spam": {"origin": "packaged", "sha256": "1" * 64, "train": 8, "test": 2, "classes": ["ham", "spam"]}}
    return start_manifest(config or {"name": "example"}, command, 3, "cpu", 2, model, data)


def test_a_manifest_says_what_runs_and_how_it_ended():
    begun = start()
    ended = end_manifest(begun, "failed", "clients.a: gone")
    assert (begun["status"], begun["ended"], begun["duration_s"]) == ("running", None, None)
    assert (ended["status"], ended["error"]) == ("failed", "clients.a: gone")
    assert ended["started"].endswith("+00:00") and ended["started"] <= ended["ended"]
    assert 0 <= ended["duration_s"] < 60
    assert begun["versions"]["python"] == platform.python_version()
    assert begun["versions"]["pydantic"]
    assert (begun["seed"], begun["device"], begun["threads"]) == (3, "cpu", 2)
    assert begun["platform"]["cores"] >= 1
    assert json.loads(json.dumps(ended, allow_nan=False)) == ended


def test_seconds_by_a_clock_that_was_set_back_are_not_known():
    begun = start()
    begun["parts"][-1]["started"] = "2999-01-01T00:00:00+00:00"
    ended = end_manifest(begun, "finished")
    assert (ended["duration_s"], ended["parts"][-1]["duration_s"]) == (None, None)


def test_the_config_hash_depends_on_values_not_on_order():
    one, two = start({"a": {0: 8}, "b": 1}), start({"b": 1, "a": {"0": 8}})
    assert one["config"] == {"a": {"0": 8}, "b": 1}
    assert one["config_sha256"] == two["config_sha256"]
    assert one["config_sha256"] != start({"a": {0: 4}, "b": 1})["config_sha256"]


@pytest.mark.parametrize(
    ("command", "masked"),
    [
        ("train a.yaml --token hf_abc", "train a.yaml --token ***"),
        ("train --hf-token=abc", "train --hf-token=***"),
        ("train HF_TOKEN=abc x.api_key=k", "train HF_TOKEN=*** x.api_key=***"),
        ("train --password p --json", "train --password *** --json"),
        ("train --token --json", "train --token --json"),
        ("train model.name=hf_abcdefghijkl", "train model.name=***"),
        ("train d=https://me:pw@host/x", "train d=https://***@host/x"),
        ("train model.tokenizer=foo max_tokens=5 a.hf_split=1", "train model.tokenizer=foo max_tokens=5 a.hf_split=1"),
    ],
)
def test_secrets_are_masked_and_nothing_else(command, masked):
    assert " ".join(mask_command(command.split())) == masked
    assert start(command=command.split())["command"] == masked.split()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit that takes the place of the atlas checkout."""
    (tmp_path / "atlas_cli").mkdir()
    (tmp_path / "atlas_cli" / "__init__.py").write_text("", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    monkeypatch.setattr(module, "PACKAGE_FOLDER", tmp_path / "atlas_cli")
    return tmp_path


def head(folder):
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()


def test_commit_and_dirty_flag_of_the_checkout(repository):
    assert start()["git"] == {"of": "atlas", "commit": head(repository), "dirty": False}
    (repository / "atlas_cli" / "new_plugin.py").write_text("", encoding="utf-8")
    assert start()["git"]["dirty"] is True


def test_a_wheel_inside_a_repository_is_not_taken_for_its_checkout(repository, monkeypatch):
    installed = repository / "venv" / "atlas_cli"
    installed.mkdir(parents=True)
    monkeypatch.setattr(module, "PACKAGE_FOLDER", installed)
    monkeypatch.chdir(repository)
    assert start()["git"] == {"of": "working directory", "commit": head(repository), "dirty": False}


def test_without_git_the_commit_is_null(repository, monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(module.subprocess, "run", missing)
    assert start()["git"] is None


def test_without_a_repository_the_commit_is_null(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE_FOLDER", tmp_path / "atlas_cli")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert start()["git"] is None
