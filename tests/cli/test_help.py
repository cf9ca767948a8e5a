"""``--help``: sections, whole sentences, and examples that can be typed as they stand."""

import re
import shlex

import pytest
from typer.main import get_command

from atlas_cli import discovery
from atlas_cli.cli import app, main

COMMANDS = [name for name in discovery.names("cli") if name != "config"]
GROUP = get_command(app)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse_and_are_shown_whole(name, capsys):
    module, command = discovery.load("cli", name), GROUP.commands[name]
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert module.EXAMPLES
    for example in module.EXAMPLES:
        assert f"\n  {example}\n" in shown
        program, command_name, *arguments = shlex.split(example)
        assert (program, command_name) == ("atlas", name)
        command.make_context(name, arguments)  # an unknown option or a value out of range is an error


@pytest.mark.parametrize("name", GROUP.commands)
def test_what_options_take_is_said_in_words_and_errors_are_one_line(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert not re.search(r"<\w|range\b|\bx[<>]|\{\w+\}", shown.replace('{"layer"', ""))
    assert main([name, "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(rf"error: atlas {name}: no such option --no-such-option.*; see .* --help\n", err)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_if_asked(name, capsys):
    assert main([name, "--help"]) == 0
    assert " --json " in capsys.readouterr().out


def test_commands_stand_in_sections_with_their_whole_sentence(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    sections = ["Run:", "Plan and check:", "Look at results:", "Use a trained model:", "Set up:"]
    assert headings == ["Options:", *sections]
    assert "..." not in shown.partition("Run:")[2] and max(map(len, shown.splitlines())) <= 80


def test_options_stand_in_sections_and_those_of_all_commands_last(capsys):
    assert main(["split-point", "--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{heading}:") for heading in ("What it must fit", "The step that is planned", "Options")]
    assert places == sorted(places) and shown.index("--device") < places[1] < shown.index("--rank") < places[2]


def test_quiet_shows_errors_and_json_alone(capsys):
    assert main(["--quiet", "devices"]) == 0 and capsys.readouterr().out == ""
    assert main(["devices", "--quiet", "--json"]) == 0 and capsys.readouterr().out.startswith("[")
    assert main(["train", "no-such.yaml", "--quiet"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "no-such.yaml" in shown.err
