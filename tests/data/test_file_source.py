"""Local files: what each suffix means, and one line that names file and place for each bad one."""

import builtins
import itertools
import re
from dataclasses import replace

import pytest

from atlas_cli.config.schema.experiment import DataConfig
from atlas_cli.data.sources import files, read_source
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.extras import install_command
from atlas_cli.testing import sources as conformance


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*names: str, **more):
    return read_source(DataConfig(files=list(names), **more), "task_groups.g.data")


GOOD = {
    "a.csv": (
        b'\xef\xbb\xbftext,label\r\n"a, ""b""",x\r\n\r\n"two\nlines",y\r\n',
        [('a, "b"', "x"), ("two\nlines", "y")],
    ),
    "a.tsv": (b"text\tlabel\na, b\tx\n", [("a, b", "x")]),
    "a.jsonl": (b'{"text": "a", "label": 0}\n\n{"text": "b", "label": null}\n', [("a", 0), ("b", None)]),
    "a.json": (b'[\n{"text": "a", "label": "x"}]', [("a", "x")]),
    "A.CSV": (b"text,label\ncaf\xc3\xa9,x\n", [("café", "x")]),
}


@pytest.mark.parametrize("name", GOOD)
def test_tables(here, name):
    data, expected = GOOD[name]
    (here / name).write_bytes(data)
    assert load(name).train == [{"text": text, "label": label} for text, label in expected]


def test_csv_takes_long_fields(here):
    (here / "a.csv").write_text(f"text\n{'x' * 200_000}\n", encoding="utf-8")
    assert len(load("a.csv").train[0]["text"]) == 200_000


def test_lines_of_text(here):
    (here / "a.txt").write_text("one\n\n  two \n", encoding="utf-8")
    assert load("a.txt").train == [{"text": "one"}, {"text": "two"}]


def test_parquet(here):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"tokens": ["a", "b"], "tags": ["O", "B"]}]
    pq.write_table(pa.Table.from_pylist(rows), here / "a.parquet")
    assert load("a.parquet").train == rows


def test_conll(here):
    (here / "a.conll").write_text("-DOCSTART- -X- O O\n\nEU NNP B-ORG\nsays VBZ O\n\n\nBye UH O", encoding="utf-8")
    assert load("a.conll").train == [
        {"tokens": ["EU", "says"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Bye"], "tags": ["O"]},
    ]


def test_patterns_are_sorted_and_test_files_are_the_test_part(here):
    for name in ("p/b.txt", "p/a.txt", "t.txt"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(name, encoding="utf-8")
    source = load("p/*.txt", test_files="t.txt")
    assert [row["text"] for row in source.train] == ["p/a.txt", "p/b.txt"]
    assert source.test == [{"text": "t.txt"}]
    assert source.origin == "files p/*.txt"


def test_the_hash_is_of_the_content(here):
    (here / "a.csv").write_text("text,label\na,b\n", encoding="utf-8")
    (here / "b.csv").write_text("label,text\nb,a\n", encoding="utf-8")
    (here / "c.csv").write_text("text,label\na,c\n", encoding="utf-8")
    a, b, c = (load(f"{name}.csv").sha256 for name in "abc")
    assert a == b != c
    assert load("a.csv", test_files="c.csv").sha256 != load("a.csv", "c.csv").sha256


BAD = {
    "empty.csv": (b"", "empty.csv is empty; add rows, or give another file"),
    "head.csv": (b"text,label\n", "head.csv has no rows; add some, or give another file"),
    "blank.txt": (b"\n \n", "blank.txt has no rows"),
    "wide.csv": (
        b'text,label\n"a\nb",x\na,b,c\n',
        "wide.csv:4: 3 fields, but the header has 2; quote fields that hold commas or line ends",
    ),
    "narrow.tsv": (
        b"text\tlabel\na\n",
        "narrow.tsv:2: 1 fields, but the header has 2; quote fields that hold tabs or line ends",
    ),
    "quote.csv": (b'text,label\na,x\n"a" b,x\n', "quote.csv:3: ',' expected after '\"'; double the quotes"),
    "open.csv": (b'text,label\na,x\n"a,x\nb,y\n', "open.csv:3: unexpected end of data; double the quotes"),
    "twice.csv": (b"text,text\na,b\n", "twice.csv:1: column 'text' occurs twice"),
    "latin.csv": (
        b"text,label\nok,x\ncaf\xe9,x\n",
        "latin.csv:3: byte 0xe9 at offset 19 is not UTF-8; save it as UTF-8",
    ),
    "bom.txt": (b"\xef\xbb\xbfa\xff", "bom.txt:1: byte 0xff at offset 4 is not UTF-8"),
    "bad.jsonl": (b'{"text": "a"}\n{"text": }\n', "bad.jsonl:2: not JSON: Expecting value: line 1 column 10 (char 9)"),
    "list.jsonl": (b"[1]\n", "list.jsonl:1: a list where an object is expected"),
    "bad.json": (b"[\n{,}]", "bad.json:2: not JSON: Expecting property name enclosed in double quotes"),
    "object.json": (b'{"text": 1}', "object.json: expected one list of objects"),
    "bad.parquet": (b"PAR1 no", "bad.parquet: not a Parquet file: "),
    "bad.conll": (b"a O\nalone\n", "bad.conll:2: expected a token and a tag, found 'alone' alone"),
    "a.xlsx": (b"x", "a.xlsx has a suffix that is not known; known are: .csv, .tsv, .jsonl"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(here, name):
    data, message = BAD[name]
    (here / name).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(name)
    assert str(caught.value).startswith(f"task_groups.g.data.files: {message}")
    assert "\n" not in str(caught.value)


def test_a_bad_test_file_blames_its_own_key(here):
    (here / "a.txt").write_text("a", encoding="utf-8")
    (here / "b.txt").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.data\.test_files: b\.txt is empty; add rows"):
        load("a.txt", test_files="b.txt")


def test_missing_files(here):
    (here / "data").mkdir()
    (here / "data" / "reviews.csv").write_text("text\na\n", encoding="utf-8")
    with pytest.raises(ResourceError, match=r"no file data/review\.csv; did you mean data/reviews\.csv\?") as caught:
        load("data/review.csv")
    assert caught.value.exit_code == 3
    with pytest.raises(ResourceError, match=re.escape(f"no file data/nouns.csv (looked in {here}")):
        load("data/nouns.csv")  # of the name beside it only the suffix is alike
    with pytest.raises(ResourceError, match=re.escape(f"no file nowhere/x.csv (looked in {here}/nowhere)")):
        load("nowhere/x.csv")
    with pytest.raises(ResourceError, match=r"no file matches data/\*\.json"):
        load("data/*.json")
    with pytest.raises(ConfigError, match=r"data is a folder; name files, or a pattern such as data/\*\.csv"):
        load("data")


def test_keys_of_the_hub_are_refused(here):
    (here / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.data\.subset: only goes with hub, this group reads files"):
        load("a.txt", subset="x")


def test_no_pyarrow_names_the_install_command(here, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    (here / "a.parquet").write_bytes(b"x")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ResourceError, match=re.escape(f"need the pyarrow package: {install_command('data')}")):
        load("a.parquet")


def test_it_keeps_what_every_source_promises(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nx,p\ny,n\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,label\nz,p\n", encoding="utf-8")
    found = conformance.check({"files": str(tmp_path / "a.csv"), "test_files": str(tmp_path / "b.csv")})
    assert len(found.train) == 2 and found.test == [{"text": "z", "label": "p"}]


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (lambda rows, calls: replace(rows, sha256="0" * 64), "sha256 is not digest"),
        (lambda rows, calls: replace(rows, train=rows.train[:: (-1) ** next(calls)]), "their order, differ"),
        (lambda rows, calls: replace(rows, split_by="document"), r"a row has no document \(split_by\)"),
        (lambda rows, calls: (rows.train, None), "must give SourceRows"),
    ],
)
def test_a_source_that_breaks_a_promise_is_told_which(tmp_path, monkeypatch, broken, promise):
    (tmp_path / "a.csv").write_text("text,label\nx,p\ny,n\n", encoding="utf-8")
    load, calls = files.Source.load, itertools.count()
    monkeypatch.setattr(files.Source, "load", lambda self, data, key: broken(load(self, data, key), calls))
    with pytest.raises(AssertionError, match=promise):
        conformance.check({"files": str(tmp_path / "a.csv")})
