from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.config.strict_yaml import load_file, parse
from atlas_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("+1.5e3", 1500.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("-0.25", -0.25),
        ("10", 10),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("0o10", "0o10"),
        ("'010'", "010"),
        ("~", None),
        ("null", None),
        ("", None),
        ("=", "="),
        ("!!str 12", "12"),
        ("!!float 1", 1.0),
    ],
)
def test_scalars_have_the_type_that_they_show(text: str, value: object) -> None:
    data = parse(f"a: {text}\n", "x.yaml").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: 010\n", 'x.yaml:2: b: 010 has a leading zero; write 10 or "010"'),
        ("a: -007\n", 'x.yaml:1: a: -007 has a leading zero; write -7 or "-007"'),
        ("a: .inf\n", "x.yaml:1: a: .inf is not a finite number"),
        ("a: [1, .NaN]\n", "x.yaml:1: a.1: .NaN is not a finite number"),
        (
            f"a: {'9' * 400}\n",
            "x.yaml:1: a: 99999999999999999999... is a number of 400 characters; quote it if it is text",
        ),
        (
            f"a: 0{'9' * 5000}\n",
            "x.yaml:1: a: 09999999999999999999... is a number of 5001 characters; quote it if it is text",
        ),
        (
            f"a: 1e{'9' * 5000}\n",
            "x.yaml:1: a: 1e999999999999999999... is a number of 5002 characters; quote it if it is text",
        ),
        (
            f"a: 1.{'0' * 400}\n",
            "x.yaml:1: a: 1.000000000000000000... is a number of 402 characters; quote it if it is text",
        ),
        ("a: 1e999\n", 'x.yaml:1: a: 1e999 is not a finite number; write a finite one or "1e999" if it is text'),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "x.yaml:4: a.b: duplicate key; it is already on line 2"),
        ("a: {b: 1, b: 2}\n", "x.yaml:1: a.b: duplicate key; it is already on line 1"),
        ("a:\n\tb: 1\n", "x.yaml:2: a tab where YAML wants spaces; indent with spaces"),
        ("a: b\t\n", "x.yaml:1: a tab where YAML wants spaces; it is in column 5, after 'a: b'; remove it"),
        ("a:\tb\n", "x.yaml:1: a tab where YAML wants spaces; it is in column 3, after 'a:'; write a space"),
        (
            "a: 1\nb: \x07\n",
            "x.yaml:2: character U+0007 is not printable; remove it, or write it as an escape in quotes",
        ),
        (
            "a: runs\udce6",
            "x.yaml:1: byte 0xe6 is no text in this locale; set PYTHONUTF8=1, or rename the file",
        ),
        (
            "a: [1,\nb: 2\n",
            "x.yaml:1: not valid YAML: '[' in column 4 is not closed before the end of the text; close it with ']', "
            "and put ',' between entries",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "x.yaml:2: not valid YAML: a second document begins here; remove the line --- or ... above",
        ),
        ("a: !!python/name:os.system x\n", "tag tag:yaml.org,2002:python/name:os.system is not supported"),
        ("a: !mine {b: 1}\n", "x.yaml:1: a: tag !mine is not supported; write plain values"),
        ("a: !!set {b, c}\n", "x.yaml:1: a: tag tag:yaml.org,2002:set is not supported; write plain values"),
        ("a: !!binary aGk=\n", "x.yaml:1: a: tag tag:yaml.org,2002:binary is not supported; write plain values"),
        ("a: !!int x\n", "x.yaml:1: a: 'x' cannot be read as a number"),
        ("true: 1\n", 'x.yaml:1: a key must be text: write "true"'),
        ("a:\n  ~: 1\n", 'x.yaml:2: a: a key must be text: write "~"'),
        ("a:\n  1.5: 1\n", 'x.yaml:2: a: a key must be text: write "1.5"'),
        ("? [a, b]\n: 1\n", "x.yaml:1: a key must be text or a whole number, not a list or a mapping"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "x.yaml:3: c: merge keys (<<) are not supported; write the keys out"),
        (
            "a: &x\n  b: 1\n  c: *x\n",
            "x.yaml:3: a.c: an alias (*) of the value that it is in, which begins on line 1; write the value out",
        ),
        ("a: &e {b: {c: *e}}\n", "x.yaml:1: a.b.c: an alias (*) of the value that it is in, which begins on line 1"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep; no key of a config is"),
        ("a: !mine b\n", 'x.yaml:1: a: tag !mine is not supported; if it is text, write "!mine b"'),
        ("a: " + "[" * 5000, "x.yaml: nested too deeply"),
        ('a: "\\ud800"\n', "x.yaml:1: a: text holds half of a surrogate pair, which is no character"),
        ('a: "\\UFFFFFFFF"\n', "x.yaml: not valid YAML: "),
    ],
)
def test_traps_are_errors_that_name_the_line(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.yaml")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_of_keys_and_items() -> None:
    document = parse("a: 1\nb:\n  c: {d: 1,\n    e: 2}\n  f:\n    - 1\n    - {g: 2}\n1: x\n", "x.yaml")
    assert document.data == {"a": 1, "b": {"c": {"d": 1, "e": 2}, "f": [1, {"g": 2}]}, 1: "x"}
    assert document.lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", "d"): 3,
        ("b", "c", "e"): 4,
        ("b", "f"): 5,
        ("b", "f", 0): 6,
        ("b", "f", 1): 7,
        ("b", "f", 1, "g"): 7,
        (1,): 8,
    }


def test_aliases_are_copies() -> None:
    data = parse("a: &x {b: [1]}\nc: *x\n", "x.yaml").data
    assert data == {"a": {"b": [1]}, "c": {"b": [1]}}
    data["a"]["b"].append(2)
    assert data["c"] == {"b": [1]}


def test_an_alias_bomb_ends_early() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]  # 9 ** 12 values
    with pytest.raises(ConfigError, match="aliases stand for more than 10000 values; write them out"):
        parse("\n".join(rows), "x.yaml")


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"name: caf\xe9\n", "not UTF-8 at byte 9; save the file as UTF-8"),
        ("name: x\n".encode("utf-16"), "not UTF-8 at byte 0; save the file as UTF-8"),
        (b"", "is empty; atlas init MODEL prints a config to start from"),
        (b"# only a comment\n", "is empty; atlas init MODEL prints a config to start from"),
        (b"- a\n", ":1: expected 'key: value' lines at the top level, got a list"),
        (b"hello\n", ":1: expected 'key: value' lines at the top level, got a single value"),
    ],
)
def test_files_that_are_no_config(tmp_path, raw: bytes, error: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert str(caught.value) == f"{path}{error if error[0] == ':' else ': ' + error}"


def test_a_missing_file_suggests_its_neighbour(tmp_path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("a: 1\n", encoding="utf-8")
    for asked in ("configs/qickstart.yaml", "quickstart.yaml", "configs/quickstart"):
        with pytest.raises(ConfigError) as caught:
            load_file(tmp_path / asked)
        found = tmp_path / "configs" / "quickstart.yaml"
        assert str(caught.value) == f"{tmp_path / asked}: no such file; did you mean {found}?"
    with pytest.raises(ConfigError) as caught:
        load_file(tmp_path / "nowhere" / "x.yaml")
    assert str(caught.value) == f"{tmp_path / 'nowhere' / 'x.yaml'}: no such file"
    with pytest.raises(ConfigError, match="is a folder; expected a YAML file"):
        load_file(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert load_file(path).data == {"name": "x"}


@settings(derandomize=True)
@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>'\"#%@?,~<=01.e\t \n\\x", max_size=60))
def test_any_text_is_data_or_a_config_error(text: str) -> None:
    try:
        parse(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith("x.yaml") and len(str(error).splitlines()) == 1
