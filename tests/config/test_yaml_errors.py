"""What is said of a text that is no YAML: the line of the mistake, not where the parser gave up, and a remedy."""

from __future__ import annotations

import pytest

from atlas_cli.config.strict_yaml import parse
from atlas_cli.errors import ConfigError

TEXT = """\
name: x
lora: {rank: 8}
training:
  rounds: 3
  local_steps: 2
  cohort: 1.0
clients:
  a: {rank: 4}
  b:
    rank: 8
output:
  dir: runs
"""


def indented(line: int, own: str, before: str) -> str:
    said = f"this line is indented by {own}, and the keys before it by {before}"
    return f"{line}: {said}; indent all keys of a section alike"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        # quotes
        ("name: x", 'name: "x', '1: the quote in column 7 is not closed; close it with "'),
        ("dir: runs", "dir: 'runs", "12: the quote in column 8 is not closed; close it with '"),
        (
            "rounds: 3",
            'rounds: "3\n  note: "x"',
            '4: the quote in column 11 is closed on line 5 only; close it with " on its own line',
        ),
        (
            "name: x",
            "name: 'it's'",
            "1: text after the quote that is closed in column 10; put all of a value in quotes, and double a quote "
            "that is inside of '...'",
        ),
        # brackets
        (
            "{rank: 8}",
            "{rank: 8",
            "2: '{' in column 7 is not closed before line 3; close it with '}', and put ',' between entries",
        ),
        ("dir: runs", "dir: [runs", "12: '[' in column 8 is not closed before the end of the text; close it with ']'"),
        ("{rank: 8}", "{rank: 8]", "2: '{' in column 7 of line 2 is closed with ']'; close it with '}'"),
        (
            "{rank: 8}",
            "{rank: 8; alpha: 16}",
            "2: a ',' is missing before column 22, in the {...} of column 7; put one between key: value pairs, or "
            "quote a value that holds ': '",
        ),
        ("dir: runs", 'dir: ["a" "b"]', "12: a ',' is missing before column 13, in the [...] of column 8"),
        ("{rank: 8}", "{rank: 8}}", "2: '}' in column 16 closes nothing; remove it, or quote it"),
        # keys without a colon, and values with one
        ("rounds: 3", "rounds 3", "4: a key ends with ':' and a space; write rounds: 3"),
        ("rounds: 3", "rounds:3", "4: a key ends with ':' and a space; write rounds: 3"),
        ("rounds: 3", "rounds = 3", "4: a key ends with ':' and a space; write rounds: 3"),
        ("rounds: 3", "rounds:3 # three", "4: a key ends with ':' and a space; write rounds: 3"),
        ("a: {rank: 4}", "a {rank: 4, x: 1}", "8: a key ends with ':' and a space; write a: {rank: 4, x: 1}"),
        ("a: {rank: 4}", "a:{rank: 4, x: 1}", "8: a key ends with ':' and a space; write a: {rank: 4, x: 1}"),
        ("training:", "training", "3: a key ends with ':' and a space; write training:"),
        ("dir: runs", "dir: a: b", "12: a second ': ' in one value (column 9); put a value that is text in quotes"),
        ("training:\n", "training: rounds: 3\n", "3: a second ': ' in one value (column 17); "),
        # indentation
        (
            "  rounds: 3",
            "   rounds: 3",
            indented(5, "2 spaces", "3 spaces (line 4) and none (line 3)"),
        ),
        (
            "  rounds: 3",
            " rounds: 3",
            indented(5, "2 spaces", "1 space (line 4) and none (line 3)"),
        ),
        (
            "  local_steps",
            "    local_steps",
            indented(5, "4 spaces", "2 spaces (line 4) and none (line 3)"),
        ),
        (
            "  local_steps",
            " local_steps",
            indented(5, "1 space", "2 spaces (line 4) and none (line 3)"),
        ),
        (
            "  local_steps",
            "local_steps",
            indented(6, "2 spaces", "none (line 5)"),
        ),
        (
            "  b:\n",
            "   b:\n",
            indented(9, "3 spaces", "2 spaces (line 8) and none (line 7)"),
        ),
        (
            "output:",
            " output:",
            indented(11, "1 space", "4 spaces (line 10), 2 spaces (line 9) and none (line 7)"),
        ),
        ("  rounds: 3", "  - rounds: 3", "5: '- ' items and 'key: value' lines are mixed in one section; write one"),
        ("  local_steps: 2", "  - 2", "5: '- ' items and 'key: value' lines are mixed in one section; write one"),
        # what only looks like a space or a colon
        ("  rounds", "\u00a0\u00a0rounds", "4: a no-break space (U+00A0) where YAML wants a space; type it anew"),
        ("rounds: 3", "rounds:\u00a03", "4: a no-break space (U+00A0) where YAML wants a space; type it anew"),
        ("rounds: 3", "rounds:\u30003", "4: an ideographic space (U+3000) where YAML wants a space; type it anew"),
        ("rounds: 3", "rounds\uff1a 3", "4: a full-width colon (U+FF1A) where YAML wants ':'; type it anew"),
        # values that begin with a sign of YAML
        (
            "dir: runs",
            "dir: *runs",
            "12: *runs stands for a value marked &runs above, and there is none; if it is text, ",
        ),
        ("dir: runs", "dir: *.csv", "12: a value that begins with * is no text; put it in quotes"),
        ("dir: runs", "dir: & runs", "12: a value that begins with & is no text; put it in quotes"),
        ("dir: runs", "dir: @runs", "12: a value cannot begin with @ (column 8); put it in quotes"),
        ("dir: runs", "dir: %runs", "12: a value cannot begin with % (column 8); put it in quotes"),
        (
            "dir: runs",
            "dir: |runs",
            "12: a value that begins with | or > is a text on the lines below; put it in quotes",
        ),
        ("dir: runs", "dir: - runs", "12: a list begins on a line of its own, '- a', or is written [a, b]"),
        # documents
        ("training:", "---\ntraining:", "3: a second document begins here; remove the line --- or ... above it"),
        ("training:", "...\ntraining:", "4: a second document begins here; remove the line --- or ... above it"),
        # what has no words of its own keeps those of the parser
        ("dir: runs", 'dir: "C:\\users"', "12: while scanning a double-quoted scalar: "),
    ],
)
def test_a_mistake_is_told_where_it_is_with_what_to_do(old: str, new: str, error: str) -> None:
    assert TEXT.count(old) == 1
    line, _, message = error.partition(": ")
    with pytest.raises(ConfigError) as caught:
        parse(TEXT.replace(old, new), "x.yaml")
    assert str(caught.value).startswith(f"x.yaml:{line}: not valid YAML: {message}")
    assert "\n" not in str(caught.value)


def test_comments_and_empty_lines_are_no_neighbours() -> None:
    text = TEXT.replace("  rounds: 3\n", "  rounds: 3\n\n # one\n").replace("  local_steps", "    local_steps")
    with pytest.raises(ConfigError, match=r"x.yaml:7: .* by 4 spaces, and the keys before it by 2 spaces \(line 4\)"):
        parse(text, "x.yaml")
