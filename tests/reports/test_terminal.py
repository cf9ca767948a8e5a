import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from atlas_cli.cli import main
from atlas_cli.printable import on_one_line, printable
from atlas_cli.reports.terminal import Terminal, wrapped

CONTROLS = "\x1b[31mred\x07\x9b2J \u202eabc\u2066 \u2028 \udcff"


def shown(text, **options):
    out = io.StringIO()
    console = Terminal(file=out, width=200, **options)
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.say(text)
    return out.getvalue()


@pytest.mark.parametrize("text", ["[spam]", "[/]", "[bold]x[/bold]", ":smile:", "[link=https://example.org]x"])
@pytest.mark.parametrize("terminal", [False, True])
def test_markup_in_a_name_is_text_in_lines_cells_titles_and_captions(text, terminal):
    assert shown(text, force_terminal=terminal, color_system=None).count(text) == 5


NOTE = "  note: data.csv: separator ';' found, and not ',': 1,000 rows are read from /some/rather/long/folder/data.csv"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_long_lines_are_wrapped_on_a_terminal_with_whole_words(width):
    out = io.StringIO()
    Terminal(file=out, width=width, force_terminal=True, color_system=None).say(NOTE)
    lines = out.getvalue().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= width
    assert " ".join(line.strip() for line in lines) == NOTE.strip()
    assert lines[0].startswith("  note: ") and all(line.startswith("    ") for line in lines[1:])


def test_a_line_in_a_file_and_a_command_to_copy_stay_whole():
    out = io.StringIO()
    Terminal(file=out, width=40).say(NOTE)
    assert out.getvalue() == NOTE + "\n"
    command = "next: atlas train experiment.yaml training.rounds=3 --json"
    assert wrapped(f"experiment.yaml is valid; {command}", 40) == f"experiment.yaml is valid;\n{command}"
    assert wrapped(f"valid; {command}", 80) == f"valid; {command}"
    assert wrapped(command, 40) == command and wrapped("", 40) == ""


def test_what_would_steer_a_terminal_is_escaped():
    text = r"\x1b[31mred\x07\x9b2J \u202eabc\u2066 \u2028 \udcff"
    assert printable(CONTROLS) == text
    assert shown(CONTROLS).count(text) == 5


@given(st.text())
def test_printable_text_can_be_encoded_and_stays_on_its_lines(text):
    safe = printable(text)
    assert safe.encode("utf-8").decode() == printable(safe) == safe
    assert len(on_one_line(text).splitlines()) <= 1


def test_names_in_other_scripts_stay_as_they_are():
    text = "naïve · 東京 · עברית · नमस्ते · 👩‍👩‍👧 · می‌خواهم"
    assert printable(text) == text


def test_labels_and_samples_of_any_content_are_shown_on_a_line(config_of_labels, capsys):
    assert main(["data", config_of_labels(["[/]", "[spam]", "\x1b[2J", "\u202eham"]), "--samples", "60"]) == 0
    out = capsys.readouterr().out
    for label in ("[/]", "[spam]", r"\x1b[2J", r"\u202eham"):
        assert f"-> {label}\n" in out
    assert "\x1b" not in out


def test_a_long_error_keeps_its_place_and_what_to_do_next(config_of_labels, capsys):
    assert main(["validate", config_of_labels(["a", "b"]), f"task_groups.{'k' * 5000}.task=causal-lm"]) == 2
    line = capsys.readouterr().err.splitlines()[0]
    assert len(line) < 1100 and "kkk ... (" in line and "characters left out) ... " in line
    assert line.startswith("error: ") and line.endswith("(to add one: task_groups.NAME={...})")


@pytest.fixture
def config_of_labels(tmp_path, model_folder):
    def write(labels):
        rows = [{"text": f"the film was good {i} {label}", "label": label} for label in labels for i in range(12)]
        (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = {
            "name": "labels",
            "model": {"name": model_folder("bert"), "split_layer": 2},
            "task_groups": {"g": {"task": "sequence-classification", "data": {"files": str(tmp_path / "d.jsonl")}}},
            "clients": {"a": {"task_group": "g"}},
        }
        (tmp_path / "c.yaml").write_text(json.dumps(config), encoding="utf-8")
        return str(tmp_path / "c.yaml")

    return write
