from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atlas_cli.config import strict_yaml
from atlas_cli.config.plain_yaml import plain_data
from atlas_cli.errors import ConfigError

needs_libyaml = pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")

SCALARS = [
    *("1 -3 +7 0 1.5 1e-4 007 .inf 1e999 0-99 12:30 ~ null true no << - x a:b é *a !!str | [ } % @ `".split(" ")),
    *("", "9" * 19, "9" * 400, "a b", "a: b", "a #c", "# c", "x? ", "? x", "> x", "&a 1", "!mine 1", "\t1", "\ufeff"),
    *("'q'", "'1'", '"d\\n"', '"\\u00e9"', '"\\ud800"'),
]
KEYS = ("a", "b", "c-1", "1", "'1'", '"a"', "a.b", "true", "~", "1.5", "<<", "é", "? a", "&k a", "two words")


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _collection(values: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Lines that stand behind a key, of a mapping or list of such values; the first goes on its key's own line."""
    entries = st.lists(st.tuples(st.sampled_from(KEYS), values), min_size=1, max_size=4)
    mapping = entries.map(lambda found: ["", *(line for key, value in found for line in _entry(f"{key}:", value))])
    items = st.lists(values, min_size=1, max_size=4)
    listed = items.map(lambda found: ["", *(line for value in found for line in _entry("-", value))])
    flow = st.lists(st.sampled_from(SCALARS), max_size=4).map(lambda found: [f"[{', '.join(found)}]"])
    braces = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(SCALARS)), max_size=3).map(
        lambda found: ["{" + ", ".join(f"{key}: {value}" for key, value in found) + "}"]
    )
    return mapping | listed | flow | braces


def _entry(start: str, value: list[str]) -> list[str]:
    return [f"{start} {value[0]}".rstrip(" "), *_indented(value[1:])]


VALUES = st.recursive(st.sampled_from(SCALARS).map(lambda text: [text]), _collection, max_leaves=12)
TEXTS = (
    st.text(alphabet="ab1:-[]{},&*!|>'\"#%@?~<=0.e\t \n\\\u2028é", max_size=50)
    | VALUES.map(lambda lines: "\n".join(_entry("k:", lines)) + "\n")
    | VALUES.map("\n".join)
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(TEXTS)
@example("---\n")
@example("a: 1\n---\nb: 2\n")
@example("{n? x, b: 1}")
@example("- ? ")
@example("a:\tx")
@example("|-# c\n  - ")
def test_what_is_read_as_plain_is_what_the_strict_reader_has(text: str) -> None:
    found = plain_data(text, strict_yaml.MAX_DEPTH)
    if found is not None:
        strict = strict_yaml._strictly(text, "x.yaml", strict_yaml._anything)
        assert repr(found[0]) == repr(strict.data)  # 1, 1.0 and True are told apart
        assert list(found[1].items()) == list(strict.lines.items())


@settings(derandomize=True, max_examples=50, deadline=None)
@given(TEXTS)
def test_without_libyaml_a_text_has_the_same_data_or_error(text: str) -> None:
    def outcome() -> str:
        try:
            document = strict_yaml.parse(text, "x.yaml")
        except ConfigError as error:
            return f"{error.where} {error.key} {error}"
        return repr((document.data, list(document.lines.items())))

    with_libyaml = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", False)
        assert plain_data("a: 1", strict_yaml.MAX_DEPTH) is None
        assert outcome() == with_libyaml


@needs_libyaml
def test_long_lists_and_mappings_are_plain() -> None:
    text = "shards:\n  c-1:\n  - 0\n  - 10-19\n  c-2: [1, 'x', 0.5, true, ~]\n  3: {}\n"
    data = {"shards": {"c-1": [0, "10-19"], "c-2": [1, "x", 0.5, True, None], 3: {}}}
    lines = {("shards",): 1, ("shards", "c-1"): 2, ("shards", "c-1", 0): 3, ("shards", "c-1", 1): 4}
    lines |= {("shards", "c-2"): 5, **{("shards", "c-2", i): 5 for i in range(5)}, ("shards", 3): 6}
    assert plain_data(text, 50) == (data, lines)


@needs_libyaml
@pytest.mark.parametrize(
    "text", ["a: &x 1", "a: !!int 1", "a: 1\na: 2", "true: 1", "<<: {a: 1}", "[a]: 1", "a: 007", "a: 1e999", "a: [", ""]
)
def test_all_else_is_left_to_the_strict_reader(text: str) -> None:
    assert plain_data(text, 50) is None


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000 + "x", "{a: " * 200_000])
def test_no_depth_ends_the_process(text: str) -> None:
    assert plain_data(text, 50) is None


def test_nesting_is_as_deep_as_the_strict_reader_takes() -> None:
    for depth in (48, 49, 50, 51):
        text = "[" * depth + "1" + "]" * depth
        found = plain_data(text, 50)
        assert found is None or repr(found[0]) == text
        if yaml.__with_libyaml__ and depth < 50:
            assert found is not None
