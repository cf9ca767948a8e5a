"""Values between top-level commas span a grid; what YAML takes for one value stays one."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cli.config import strict_yaml
from atlas_cli.config.grid import expand, split_values
from atlas_cli.errors import ConfigError

TEXT = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from([",", ", ", " ,"]))
def test_values_written_as_json_are_taken_apart_again(values, comma):
    parts = split_values(comma.join(json.dumps(value) for value in values))
    assert [strict_yaml.parse(part, "part").data for part in parts] == values


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_so_are_texts_in_single_quotes(texts):
    quoted = ["'" + text.replace("'", "''") + "'" for text in texts]
    assert split_values(",".join(quoted)) == quoted


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,1, 2", ["0", "1", "2"]),
        ("[a, b]", ["[a, b]"]),
        ("[a,b],[b]", ["[a,b]", "[b]"]),
        ("{0: 8, 1: [2, 3]},4", ["{0: 8, 1: [2, 3]}", "4"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("it's,what's", ["it's", "what's"]),
        ("['],', b],c", ["['],', b]", "c"]),
        ("[a,b", ["[a,b"]),
        ("a],b", ["a]", "b"]),
        ("0,", ["0", ""]),
        ("", [""]),
    ],
)
def test_split(text, values):
    assert split_values(text) == values


def test_every_combination_once_the_last_axis_fastest():
    grid = expand(["seed=0,1,2", "training.rounds=3", "lora.targets=[q_proj, v_proj]", "aggregation.method=a,b"])
    shared = ("training.rounds=3", "lora.targets=[q_proj, v_proj]")
    expected = itertools.product("012", "ab")
    assert [each.overrides for each in grid] == [(f"seed={s}", *shared, f"aggregation.method={m}") for s, m in expected]
    assert grid[5].values == {"seed": "2", "aggregation.method": "b"}
    assert grid[5].label == "seed=2 aggregation.method=b"


def test_without_axes_there_is_one_combination():
    (only,) = expand(["seed=", "seed=1", "nothing"])
    assert only.overrides == ("seed=", "seed=1", "nothing") and only.label == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=0,"], "command line: seed: has an empty value"),
        (["seed=,,"], "command line: seed: has an empty value"),
        (["seed=0,1,0"], "command line: seed: has 0 twice"),
        (["seed=0,1", "seed=2"], "command line: seed: is given twice"),
        (["seed=2", "seed = 0,1"], "command line: seed: is given twice"),
    ],
)
def test_bad_axes(arguments, message):
    with pytest.raises(ConfigError) as error:
        expand(arguments)
    assert str(error.value).startswith(message)
