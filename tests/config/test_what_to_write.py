"""A refused value is told with the value that was probably meant, as the schema takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from atlas_cli.config.load import config_of_text, load_config
from atlas_cli.config.what_to_write import instead
from atlas_cli.errors import ConfigError

TEXT = """\
name: good
model: {name: minilm}
lora: {rank: 8}
task_groups:
  g: {task: sequence-classification, data: {corpus: trec-questions}}
clients:
  a: {task_group: g, rank: 4}
training:
  rounds: 3
"""


def said(old: str, new: str) -> str:
    """What is said where one line has something else."""
    assert TEXT.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        config_of_text(TEXT.replace(old, new), Path("x.yaml"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("0x1F", "31"),
        ("0o17", "15"),
        ("0b101", "5"),
        ("1_000", "1000"),
        ("10_00", "1000"),
        ("1,000", "1000"),
        ("1,000,000", "1000000"),
        ("1.0", "1"),
        ("1e3", "1000"),
        ("3.5", "3 or 4"),
        ('"3"', "3"),
        ("3 rounds", "3"),
        ("3,", "3"),
        ("3;", "3"),
        ("3\u00a0", "3"),
        ("[3]", "3"),
        ("yes", "e.g. 10"),
        ("three", "e.g. 10"),
        ("true", "e.g. 10"),
        ('"0x0"', "e.g. 10"),  # 0 is out of bounds
        ("", "one, or remove the key for its default, 10"),
        ("null", "one, or remove the key for its default, 10"),
        ("None", "one, or remove the key for its default, 10"),
    ],
)
def test_a_whole_number(value: str, written: str) -> None:
    line = said("rounds: 3", f"rounds: {value}")
    assert line.startswith("x.yaml:9: training.rounds: expected an integer, got ")
    assert line.endswith(f"; write {written}")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("50%", "0.5"),
        ("100 %", "1"),
        ("0,5", "0.5"),
        ('"0.5"', "0.5"),
        ("1/4", "0.25"),
        ("1/0", "e.g. 1.0"),
        ("all", "e.g. 1.0"),
        ("150%", "e.g. 1.0"),  # a share above 1
    ],
)
def test_a_share(value: str, written: str) -> None:
    assert said("rounds: 3", f"cohort: {value}").endswith(f" (text); write {written}")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("yes", "true"),
        ("On", "true"),
        ("1", "true"),
        ('"true"', "true"),
        ("no", "false"),
        ("off", "false"),
        ("0", "false"),
    ],
)
def test_true_or_false(value: str, written: str) -> None:
    line = said("lora: {rank: 8}", f"engine: {{pinned: {value}}}")
    assert line.startswith("x.yaml:3: engine.pinned: expected true or false, got ")
    assert line.endswith(f"; write {written}")


@pytest.mark.parametrize(
    ("old", "new", "written"),
    [
        ("rank: 4", "rank: Auto", "auto"),
        ("rank: 4", "rank: '4'", "4"),
        ("rank: 4", "rank: 4.0", "4"),
        ("rank: 4", "rank: [4, 8]", "{0: 4, 1: 8}"),
        ("rank: 4", "rank: {'0': 4}", "0"),
        ("rank: 4", "rank: {0: 4.0}", "4"),
        ("rank: 4", "rank: {0-5: 4}", "an entry for each number"),
        ("rounds: 3", "rounds: 3\ntrackers: mlflow, wandb", "[mlflow, wandb]"),
        ("{rank: 8}", "{targets: q}", "[q]"),
        ("{rank: 8}", "{targets: q v}", "[q, v]"),
        ("{rank: 8}", "{rank: 8}\nengine: ray", "{name: ray}"),
        ("{rank: 8}", "{rank: 8}\nengine: none", "{} for its defaults, or remove it"),
        ("name: good", "name: my run/2", "my-run-2"),
        ("  a: {task_group: g, rank: 4}", "  [a, b]", "a line 'NAME: ...' for each"),
    ],
)
def test_other_values(old: str, new: str, written: str) -> None:
    assert said(old, new).splitlines()[0].endswith(f"; write {written}")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("rounds: 3", "rounds: 010", "x.yaml:9: training.rounds: 010 has a leading zero; write 10"),
        ("name: good", "name: 010", 'x.yaml:1: name: 010 has a leading zero; write "010"'),
        ("rank: 4", "rank: {00: 4}", "x.yaml:7: clients.a.rank: 00 has a leading zero; write 0"),
        ("  a: {", "  01: {", 'x.yaml:7: clients: 01 has a leading zero; write "01"'),
        ("{rank: 8}", "{rslora: 01}", "x.yaml:3: lora.rslora: 01 has a leading zero; write true or false"),
        ("rounds: 3", "cohort: .inf", "x.yaml:9: training.cohort: .inf is not a finite number; write a finite one"),
        ("rounds: 3", "round: 010", 'x.yaml:9: training.round: 010 has a leading zero; write 10 or "010"'),
    ],
)
def test_of_a_number_that_is_a_trap_only_what_the_key_takes_is_named(old: str, new: str, error: str) -> None:
    assert said(old, new) == error


@pytest.mark.parametrize(
    ("key", "said_of_it"),
    [
        ("{rank:16}", "lora.rank:16 is not a known key; write rank: 16, with ':' and a space"),
        ("{rank 16}", "lora.rank 16 is not a known key; write rank: 16, with ':' and a space"),
        ("{rank = 16}", "lora.rank = 16 is not a known key; write rank: 16, with ':' and a space"),
        (
            "{\u00a0rank: 16}",
            r"lora.'\xa0rank' is not a known key: it holds a no-break space (U+00A0) where YAML wants a space",
        ),
    ],
)
def test_a_key_that_holds_its_value_or_what_is_no_space(key: str, said_of_it: str) -> None:
    assert said("{rank: 8}", key).startswith(f"x.yaml:3: {said_of_it}")


@pytest.mark.parametrize(
    ("old", "new", "end"),
    [
        ("rounds: 3", "rounds: ${N}", "a config has no variables: write the value, or set the key on the command line"),
        ("{rank: 8}", "{rank: 8}\nengine: {prepack: none}", "e.g. 2 GiB; for none write null"),
        ("name: good", "name: 1e5", "expected text, got 100000.0; put it in quotes"),  # as it was written is not known
        ("{corpus: trec-questions}", "trec-questions", "question, context and 23 more"),  # any of which would take it
    ],
)
def test_what_cannot_be_guessed_is_not_made_up(old: str, new: str, end: str) -> None:
    assert said(old, new).endswith(end)


def test_a_comma_that_ends_a_value_in_braces_is_told() -> None:
    lines = said("{rank: 8}", "{targets: q_proj, v_proj}").splitlines()
    assert "; if it belongs to the value before it, write that in quotes, or a list as [a, b]" in lines[1]


def test_a_windows_path_in_double_quotes_is_no_path_with_a_carriage_return(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(TEXT + 'output: {dir: "C:\\runs"}\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}:10: output.dir: 'C:\\runs' holds a control character, \\r; write a path with / or without double "
        "quotes"
    )


@pytest.mark.parametrize("value", ["_", "+_", "__", "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000])
def test_what_is_no_number_in_any_way_gets_the_default_as_an_example(value):
    assert instead(int, FieldInfo(annotation=int, default=10), value) == "; write e.g. 10"
