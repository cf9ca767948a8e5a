"""What a relative path of data means: the same from every folder, and said where two files could be meant."""

import os
import sys
from pathlib import Path

import pytest

from atlas_cli.config import load
from atlas_cli.config.dump import dump_config
from atlas_cli.config.load import load_config

CONFIG = """name: t
model: {{name: minilm}}
task_groups: {{g: {{task: sequence-classification, data: {{files: {files}}}{more}}}}}
clients: {{a: {{task_group: g}}}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Configs in tmp/project/configs, and the working directory tmp/project."""
    load._say_once.cache_clear()
    (tmp_path / "project" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def write(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text,label\n{path},x\n", encoding="utf-8")


def files(here, given, *overrides, more="", test=None):
    (here / "configs" / "c.yaml").write_text(CONFIG.format(files=given, more=more), encoding="utf-8")
    return load_config(os.path.relpath(here / "configs" / "c.yaml"), overrides).config.task_groups["g"].data.files


def test_beside_the_config_from_every_folder(here, monkeypatch, capsys):
    write("configs/d.csv")
    found = {str(files(here, "d.csv"))}
    for folder in (here.parent, here / "configs"):
        monkeypatch.chdir(folder)
        found.add(str(files(here, "d.csv")))
    assert found == {str(here / "configs" / "d.csv")}
    assert capsys.readouterr() == ("", "")


def test_in_the_working_directory_where_it_is_only_there_which_is_said(here, capsys):
    write("configs/data/d.csv")
    for name in ("d.csv", "*.csv"):
        found = str(here / "configs" / "data" / name)
        assert files(here, f"'configs/data/{name}'") == found
        assert capsys.readouterr().err == (
            f"note: configs/c.yaml: task_groups.g.data.files: configs/data/{name} is not beside the config; that of the"
            f" working directory is used, {found}\n"
        )


@pytest.mark.parametrize("given", ["d.csv", "'d.*'"])
def test_two_files_of_one_name_are_said_once(here, capsys, given):
    write("d.csv", "configs/d.csv")
    name = given.strip("'")
    assert files(here, given) == files(here, given) == str(here / "configs" / name)
    assert capsys.readouterr().err == (
        f"note: configs/c.yaml: task_groups.g.data.files: {name} is in {here / 'configs'} and in {here}; the first"
        " is used, beside the config (or give a full path)\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a link needs a privilege there")
def test_one_file_by_two_ways_is_no_choice(here, capsys):
    write("d.csv")
    os.symlink(here / "d.csv", here / "configs" / "d.csv")
    assert files(here, "[d.csv, missing.csv, /nowhere.csv]") == [
        str(here / "configs/d.csv"),
        "missing.csv",
        "/nowhere.csv",
    ]
    assert capsys.readouterr().err == ""


def test_the_command_line_speaks_of_the_working_directory(here, capsys):
    write("d.csv", "configs/d.csv")
    assert files(here, "other.csv", "task_groups.g.data.files=d.csv") == str(here / "d.csv")
    assert files(here, "other.csv", "task_groups.g.data={files: d.csv}") == str(here / "d.csv")
    assert capsys.readouterr().err == ""


def test_a_folder_with_brackets_is_no_pattern(here, monkeypatch):
    write("a[1]/d.csv")
    (here / "a[1]" / "c.yaml").write_text(CONFIG.format(files="'*.csv'", more=", adapter: start"), encoding="utf-8")
    (here / "a[1]" / "start").mkdir()
    group = load_config("a[1]/c.yaml").config.task_groups["g"]
    assert group.data.files == str(here / "a[[]1]" / "*.csv")
    assert group.adapter == str(here / "a[1]" / "start")


def test_the_resolved_config_means_the_same_elsewhere(here, monkeypatch):
    write("configs/d.csv", "run/d.csv", "elsewhere/d.csv")
    (here / "configs" / "c.yaml").write_text(CONFIG.format(files="d.csv", more=""), encoding="utf-8")
    first = load_config("configs/c.yaml").config
    (here / "run" / "config.yaml").write_text(dump_config(first), encoding="utf-8")
    monkeypatch.chdir(here / "elsewhere")
    assert load_config(here / "run" / "config.yaml").config == first


def test_a_model_with_a_folder_in_its_name_is_found_beside_the_config(here, monkeypatch):
    (here / "configs" / "models" / "tiny").mkdir(parents=True)
    (here / "configs" / "gpt2").mkdir()
    for given, found in (("models/tiny", str(here / "configs" / "models" / "tiny")), ("gpt2", "gpt2"), ("a/b", "a/b")):
        text = CONFIG.format(files="d.csv", more="").replace("minilm", f"{given}, tokenizer: {given}")
        (here / "configs" / "c.yaml").write_text(text, encoding="utf-8")
        model = load_config("configs/c.yaml").config.model
        assert (model.name, model.tokenizer) == (found, found)
    monkeypatch.chdir(here / "configs")
    (here / "configs" / "c.yaml").write_text(
        CONFIG.format(files="d.csv", more="").replace("minilm", "models/tiny"), encoding="utf-8"
    )
    assert load_config("c.yaml").config.model.name == "models/tiny"  # as it is, where it is found
