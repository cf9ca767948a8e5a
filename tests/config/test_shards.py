"""Mistakes in ``partition.shards`` that need no data are all told at once: no kind of them hides another."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas_cli.config.load import config_of_text
from atlas_cli.config.named_rows import named_twice
from atlas_cli.errors import ConfigError

TEXT = """\
name: x
model: {name: minilm}
task_groups:
  g: {task: sequence-classification, data: {corpus: trec-questions}}
  h: {task: sequence-classification, data: {corpus: sms-spam}}
clients:
  a: {task_group: g, count: 8}
  b: {task_group: h}
partition:
  scheme: explicit
  shards:
"""


def load(shards: dict[str, object]) -> None:
    lines = "".join(f"    {name}: {rows}\n" for name, rows in shards.items())
    config_of_text(TEXT + lines, Path("x.yaml"))


GOOD = {f"a-{i}": [10 * i, f"{10 * i + 1}-{10 * i + 5}"] for i in range(1, 9)} | {"b": ["10-60"]}


def mistakes(**changed: object) -> list[str]:
    shards: dict[str, object] = {**GOOD, **{name.replace("_", "-"): rows for name, rows in changed.items()}}
    with pytest.raises(ConfigError) as caught:
        load({name: rows for name, rows in shards.items() if rows is not None})
    return str(caught.value).splitlines()


def test_rows_of_two_task_groups_are_counted_apart() -> None:
    load(GOOD)


def test_every_kind_of_mistake_is_told() -> None:
    assert mistakes(a_1=None, a_3=["20-30", -1, 25, 29], a_4=["x", "9-1"], c=[1]) == [
        "x.yaml:11: partition.shards: client a-1 has no shard",
        "x.yaml:13: partition.shards.a-3: -1 is out of range: rows count from 0; 7 rows are named twice, also by a-2 "
        "(20-25), itself (29)",
        "x.yaml:14: partition.shards.a-4: 'x' is neither a row number nor a range such as '0-99'; the range '9-1' ends "
        "before it begins",
        "x.yaml:20: partition.shards.c: no client has this name; expected one of: a-1, a-2, a-3, a-4, a-5, a-6, a-7, "
        "a-8, b",
    ]


def test_many_mistakes_of_a_kind_do_not_hide_another() -> None:
    unknown = {f"z{i}": [i] for i in range(40)}
    lines = mistakes(**unknown, **{f"a_{i}": [1] for i in range(1, 9)})
    assert len(lines) == 10
    assert lines[:2] == [
        f"x.yaml:{i + 11}: partition.shards.a-{i}: row 1 is named twice, by a-1 and a-{i}" for i in (2, 3)
    ]
    assert lines[4].endswith("by a-1 and a-6 (and 2 more shards have mistakes)")
    assert lines[9].startswith("x.yaml:25: partition.shards.z4: no client has this name")
    assert lines[9].endswith(" (and 35 more shards have no client)")


def test_rows_that_no_source_can_have_take_no_memory() -> None:
    load({**GOOD, "a-1": ["0-999999999999"]})  # the data says that they are not there


def test_of_each_row_the_first_client_in_the_file_is_its_owner() -> None:
    assert named_twice({"p": [range(5, 6)], "q": [range(5, 6), range(5, 6)]}) == {
        "q": "row 5 is named twice, by p and q"
    }
    rows = {"p": [range(5, 8)], "q": [range(7, 9), range(5, 6)], "r": [range(8, 9)]}
    assert named_twice(rows) == {
        "q": "2 rows are named twice, also by p (5, 7)",
        "r": "row 8 is named twice, by q and r",
    }
