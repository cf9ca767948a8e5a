"""Fenced blocks of README and the documentation work: commands parse, configs validate, tutorials run."""

import functools
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from support.sweeps import train_here

from atlas_cli.cli import app, main
from atlas_cli.config.frontier import load_frontier
from atlas_cli.config.load import load_config
from atlas_cli.config.strict_yaml import parse
from atlas_cli.sweeps import trial

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^( *)(?:<!-- tested: ([\w-]+) -->\n *)?```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (atlas .*)$", re.MULTILINE)
PLACES = {"FILE": "offline", "RUN": "runs/x", "NEW": "new.yaml", "MODEL": "minilm", "FOLDER": "folder", "N": "4"}
PLACES |= {"DIR": "out", "NAME": "phone", "CLIENT": "phone-1"}


def blocks(page):
    """Language, tutorial and text of every fenced block."""
    for indent, tutorial, language, text in FENCED.findall(page.read_text(encoding="utf-8")):
        yield language, tutorial, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def commands():
    for page in PAGES:
        lines = [
            line
            for language, _, text in blocks(page)
            if language in ("bash", "powershell")
            for line in text.splitlines()
        ]
        outside = FENCED.sub("", page.read_text(encoding="utf-8"))
        for line in [*lines, *INDENTED.findall(outside)]:
            if line.startswith("atlas "):
                yield page.relative_to(ROOT).as_posix(), line


@pytest.fixture(scope="module")
def parser():
    """Reads a command line as atlas does, and does nothing: gives the exit code."""
    silent = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
    for each in app.registered_commands:
        silent.command(each.name)(_silent(each.callback))
    for group in app.registered_groups:
        below = typer.Typer()
        for each in group.typer_instance.registered_commands:
            below.command(each.name or each.callback.__name__)(_silent(each.callback))
        silent.add_typer(below, name=group.name)
    silent.callback()(_silent(app.registered_callback.callback))
    command = typer.main.get_command(silent)

    def parse(words):
        try:
            return command.main(words, prog_name="atlas") or 0
        except SystemExit as stop:
            return stop.code

    return parse


def _silent(function):
    @functools.wraps(function)
    def does_nothing(*arguments, **options):
        return None

    return does_nothing


def test_every_command_that_is_shown_parses(parser):
    seen = list(commands())
    assert len(seen) > 40
    for page, line in seen:
        words = shlex.split(re.split(r"\s+#|\s+>|\s+\|\s", line)[0])[1:]
        assert parser([PLACES.get(word, word) for word in words]) == 0, f"{page}: {line}"


def test_a_command_that_does_not_exist_is_found(parser):
    assert parser(["train", "offline", "--fast"]) == 2
    assert parser(["trian", "offline"]) == 2


def configs():
    """Every YAML block, by page."""
    for page in PAGES:
        for i, (language, _, text) in enumerate(blocks(page)):
            if language == "yaml":
                yield pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}-{i}")


GROUND = {
    "name": "ground",
    "model": {"name": "minilm"},
    "task_groups": {"questions": {"task": "sequence-classification", "data": {"corpus": "trec-questions"}}},
    "devices": {"phone": {"memory": "2 GiB", "compute": "20 GFLOP/s", "uplink": "10 Mbit/s", "downlink": "50 Mbit/s"}},
    "clients": {f"phone-{i}": {"task_group": "questions", "device": "phone"} for i in range(1, 5)},
}


@pytest.mark.parametrize("text", list(configs()))
def test_every_config_that_is_shown_validates(text, tmp_path):
    """A piece of a config is put on the ground of a whole one; task groups that it brings take its clients."""
    given = parse(text, "shown").data
    if "defences" in given:  # a file of its own
        (tmp_path / "frontier.yaml").write_text(text, encoding="utf-8")
        load_frontier(tmp_path / "frontier.yaml")
        return
    whole = {**GROUND, **given}
    if "task_groups" in given and "clients" not in given:
        whole["clients"] = {"phone-1": {"task_group": next(iter(given["task_groups"]))}}
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    load_config(file)


def tutorials():
    found = {}
    for page in PAGES:
        for language, tutorial, text in blocks(page):
            if tutorial:
                found.setdefault(tutorial, []).append((language, text))
    return found


NEEDS_A_MODEL = {"your-data"}  # which `atlas init` takes from the packaged ones
MARKED = [pytest.param(t, marks=pytest.mark.packaged if t in NEEDS_A_MODEL else pytest.mark.slow) for t in tutorials()]


@pytest.mark.parametrize("tutorial", MARKED)
def test_tutorials_run(tutorial, tmp_path, monkeypatch):
    """Block after block in an empty folder, without a network where no model is needed; neighbours are one program.

    Commands run in this process, runs of sweeps too: .ci/run types those of the README into a shell.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "train", train_here)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in () if tutorial in NEEDS_A_MODEL else ("HF_HUB_OFFLINE", "PIP_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    for language, together in itertools.groupby(tutorials()[tutorial], key=lambda block: block[0]):
        text = "".join(text for _, text in together)
        if language == "python":
            done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        else:
            for line in text.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
