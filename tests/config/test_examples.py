"""Example configs by name, and copies of them: what a user without a checkout starts from."""

from pathlib import Path

import pytest

from atlas_cli.cli import main
from atlas_cli.config import examples, load
from atlas_cli.config.examples import config_file
from atlas_cli.config.load import load_config
from atlas_cli.printable import as_typed

SHIPPED = examples.folder() / "quickstart.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load._say_once.cache_clear()
    return tmp_path


def test_a_name_is_a_file_here_before_it_is_an_example(here):
    name = Path("quickstart")
    path, note = config_file(name)
    assert path == SHIPPED and note == f"quickstart is the example {SHIPPED} (atlas init --example copies it)"
    (here / "quickstart.yaml").write_text("name: mine\n", encoding="utf-8")
    assert config_file(name) == (
        Path("quickstart.yaml"),
        "quickstart is quickstart.yaml here, not the example of that name",
    )
    (here / "quickstart").write_text("name: mine\n", encoding="utf-8")
    assert config_file(name) == (name, None)


@pytest.mark.parametrize("given", ["configs/quickstart", "quickstart.yml", "nothing-such"])
def test_what_has_a_folder_or_a_suffix_or_another_name_is_a_path(given):
    assert config_file(Path(given)) == (Path(given), None)


def test_commands_take_the_name(capsys):
    assert main(["config", "show", "offline"]) == 0
    out, err = capsys.readouterr()
    assert "name: offline" in out and err.startswith("note: offline is the example ")
    assert main(["config", "show", "gone/offline.yaml"]) == 2
    hint = "no such file; did you mean the example offline? (atlas train offline)"
    assert capsys.readouterr().err == f"error: {Path('gone/offline.yaml')}: {hint}\n"
    assert main(["config", "show", "ofline"]) == 2
    assert capsys.readouterr().err == "error: ofline: no such file; did you mean offline?\n"


def test_in_a_wheel_they_lie_in_the_package(here, monkeypatch):
    (here / "examples").mkdir()
    monkeypatch.setattr(examples, "PACKAGE_FOLDER", here)
    (here / "examples" / "one.yaml").write_text(
        "# What it is,\n# in two lines.\n#\n# More.\nname: one\n", encoding="utf-8"
    )
    assert examples.examples() == {"one": ("one", here / "examples" / "one.yaml", "What it is, in two lines.")}


@pytest.mark.parametrize("name", examples.examples())
def test_a_copy_has_its_data_beside_it(name, here, capsys):
    assert main(["init", "--example", name, "--out", "sub/copy.yaml"]) == 0
    copy = here / "sub" / "copy.yaml"
    assert f"next: atlas train {as_typed(str(Path('sub/copy.yaml')))}\n" in capsys.readouterr().out
    text = copy.read_text(encoding="utf-8")
    assert "#   atlas train sub/copy.yaml\n" in text and "configs/" not in text
    for group in load_config(copy).config.task_groups.values():
        if group.data.source == "files":
            assert Path(group.data.location[0]).is_relative_to(here / "sub") and Path(group.data.location[0]).is_file()


def test_nothing_is_overwritten_and_then_nothing_is_written(here, capsys):
    (here / "data").mkdir()
    (here / "data" / "ner-sample.conll").write_text("mine O\n", encoding="utf-8")
    assert main(["init", "--example", "offline"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {Path('data/ner-sample.conll')}: exists already")
    assert [path.name for path in here.rglob("*") if path.is_file()] == ["ner-sample.conll"]


def test_two_examples_share_their_data(capsys):
    assert main(["init", "--example", "bert-ner"]) == 0
    assert main(["init", "--example", "offline"]) == 0
    assert "ner-sample.conll" not in capsys.readouterr().out.splitlines()[1]
    assert main(["init", "--example", "offline"]) == 2  # of which the config may have been changed


def test_the_list_says_what_each_shows(capsys):
    assert main(["init", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in examples.examples()) and "A first run that downloads nothing" in out
