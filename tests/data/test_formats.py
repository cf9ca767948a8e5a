"""Files as other programs write them: read as they were meant, or refused in one line that says what was seen."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas_cli.config.schema.experiment import DataConfig
from atlas_cli.data.sources import read_source
from atlas_cli.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return read_source(DataConfig(files=name), "task_groups.g.data")


def texts(source):
    return [(row["text"], row["label"]) for row in source.train]


RAW = 'text\tlabel\n"Fine film\tgood\ndull\tbad\nfive inches 5"\tgood\n"quoted"\tbad\n'


def test_quotes_are_text_in_a_tsv_without_quoting():
    source = load("raw.tsv", RAW)
    assert texts(source) == [('"Fine film', "good"), ("dull", "bad"), ('five inches 5"', "good"), ('"quoted"', "bad")]
    assert source.notes == ("raw.tsv: fields are not quoted, so quotes are read as text (3 fields hold some)",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('text\tlabel\n"say ""hi"""\tx\n"a\tb"\ty\n"two\nlines"\tx\n', ['say "hi"', "a\tb", "two\nlines"]),  # pandas
        ('text\tlabel\n"red, green"\tx\nplain\ty\n', ["red, green", "plain"]),  # Excel quotes commas
        ('"text"\t"label"\n"all"\t"x"\n"quoted"\t"y"\n', ["all", "quoted"]),  # R
    ],
)
def test_a_quoted_tsv_stays_quoted(content, expected):
    source = load("quoted.tsv", content)
    assert [text for text, _ in texts(source)] == expected and not source.notes


# a tab and a line end in one field may look like two rows that are not quoted
cells = st.text(st.sampled_from('ab ",\n\té'), min_size=1).filter(
    lambda cell: cell.strip() and not {*"\t\n"} <= {*cell}
)


@given(st.lists(st.tuples(cells, st.sampled_from("xy")), min_size=1), st.sampled_from([",", "\t"]))
def test_what_a_writer_quotes_comes_back(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("written") / ("a.csv" if delimiter == "," else "a.tsv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([("text", "label"), *rows])
    assert texts(read_source(DataConfig(files=str(path)), "data")) == rows


def test_lines_inside_quotes_that_could_be_rows_are_said():
    source = load("a.csv", 'text,label\n"Fine film,good\ndull,bad\nfive inches 5",good\n')
    assert len(source.train) == 1
    assert source.notes[0].startswith(
        "a.csv:2: a quoted field goes on to line 4, so 3 lines that could be rows are one"
    )
    assert not load("b.csv", 'text,label\n"two, with a comma\nlines, and more",good\n').notes


GOOD = {
    "excel.csv": "sep=;\r\ntext;label\r\na, b;x\r\n\r\nc;y\r\n",
    "commas.csv": "text,label,,\na; b,x,,\nc,y,,\n",
    "rows.csv": "text,label\na,x,\nc,y,\n",
    "header.csv": "text,label,\na; b,x\nc,y\n",
    "mac.csv": "text,label\ra,x\rc,y\r",
    "utf16.tsv": "text\tlabel\r\na\tx\r\nc\ty\r\n".encode("utf-16"),
    "utf32.csv": "text,label\na,x\nc,y\n".encode("utf-32"),
    "mac.jsonl": '{"text": "a", "label": "x"}\r{"text": "c", "label": "y"}\r',
}


@pytest.mark.parametrize("name", GOOD)
def test_tables_as_spreadsheets_write_them(name):
    found = [(text[0], label) for text, label in texts(load(name, GOOD[name]))]
    assert found == [("a", "x"), ("c", "y")]
    assert load(name, GOOD[name]).train[0].keys() == {"text", "label"}


SEPARATED = {
    "semicolons.csv": ("text;label\na, b;x\nc;y\n", "';' found, and not ','"),
    "decimals.csv": ("text;score;label\na;3,5;x\nc;1,5;y\n", "';' found, and not ','"),
    "tabs.csv": ("text\tlabel\na; b\tx\nc\ty\n", "tab found, and not ','"),
    "bars.csv": ("text|label\na, b|x\nc|y\n", "'|' found, and not ','"),
    "commas.tsv": ("text,label\na;|,x\nc,y\n", "',' found, and not tab"),
    "quoted.csv": ('"text";"label"\n"a;, b";"x"\n"c, d; e";"y"\n', "';' found, and not ','"),
    "header.csv": ('"a, b";text;label\n0;a;x\n1;c;y\n', "';' found, and not ','"),
    "uneven.csv": ("text;label, class;label\na;;x\nc, d;;y\n", "';' found, and not ','"),
    "own.csv": ("text,label\na;b|c,x\nc;d|e,y\n", None),
    "raw.tsv": ('text\tlabel\ta,b\na, "b\tx\t"\nc\ty\t1,2\n', None),
}


@pytest.mark.parametrize("name", SEPARATED)
def test_the_separator_is_found_and_said(name):
    content, said = SEPARATED[name]
    source = load(name, content)
    assert [(text[0], label) for text, label in texts(source)] == [("a", "x"), ("c", "y")]
    assert [note for note in source.notes if "separator" in note] == [f"{name}: separator {said}"] * (said is not None)


def test_one_column_may_hold_separators():
    assert load("a.csv", "text\none; two\nthree\n").train == [{"text": "one; two"}, {"text": "three"}]
    assert load("b.csv", '"text; or body"\n"one, two"\n').train == [{"text; or body": "one, two"}]


def test_the_separator_that_is_set_is_taken():
    def header(name, content, separator):
        with open(name, "w", encoding="utf-8") as file:
            file.write(content)
        source = read_source(DataConfig(files=name, separator=separator), "task_groups.g.data")
        assert not source.notes
        return list(source.train[0])

    assert header("two.csv", "id,text;label\n1,a;x\n", ";") == ["id,text", "label"]
    assert header("two.csv", "id,text;label\n1,a;x\n", ",") == ["id", "text;label"]
    assert header("odd.csv", "text^label\na^x\n", "^") == ["text", "label"]
    assert header("tabs.csv", "text\tlabel,x\na\tx,y\n", "tab") == ["text", "label,x"]
    assert header("excel.csv", "sep=,\ntext,x|label\na,x|y\n", "|") == ["text,x", "label"]
    with pytest.raises(ConfigError, match=r"data\.separator: is for \.csv and \.tsv files, and there is none"):
        header("a.jsonl", '{"text": "a"}', ";")
    for bad in ("", ";;", "a", '"', "\n"):
        with pytest.raises(ValidationError, match="separator"):
            DataConfig(files="a.csv", separator=bad)


def test_a_column_without_a_name_stays_where_it_holds_something():
    assert load("a.csv", ",text,label\n0,a,x\n").train == [{"": "0", "text": "a", "label": "x"}]
    assert load("b.csv", "text,label,\na,x,\nb,y,z\n").train[1] == {"text": "b", "label": "y", "": "z"}


def test_squads_own_layout():
    asked = {"id": "1", "question": "who?", "answers": [{"text": "Ann", "answer_start": 0}]}
    unknown = {"id": "3", "question": "where?"}
    none = {"id": "2", "question": "why?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "x"}]}
    article = {"title": "t", "paragraphs": [{"context": "Ann is here", "qas": [asked, none, unknown]}]}
    rows = load("dev.json", json.dumps({"version": "v2.0", "data": [article]})).train
    assert [(row["question"], row["context"], row.get("answers")) for row in rows] == [
        ("who?", "Ann is here", asked["answers"]),
        ("why?", "Ann is here", []),
        ("where?", "Ann is here", None),
    ]


CONLL = {
    "conll2003.conll": "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n-DOCSTART- -X- O O\n\n"
    "Peter NNP B-NP B-PER\n",
    "multiconer.conll": "# id 5239 domain=en\njohn _ _ B-PER\nworks _ _ O\n\n# id 77 domain=en\nmary _ _ B-PER\n",
    "spaces.conll": "new city\tB-LOC\nis\tO\n\n10\u00a0000\tB-NUM\n",
    "nbsp.iob": "10\u00a0000 B-NUM\r\nof O\r\n",
    "hash.conll": "# O\nwon O\n\n#tag B-MISC\n# O\n",
    "untagged.conll": "#tag\nwon\n\n# id 17\nmary\n",
}
SENTENCES = {
    "conll2003.conll": [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])],
    "multiconer.conll": [(["john", "works"], ["B-PER", "O"]), (["mary"], ["B-PER"])],
    "spaces.conll": [(["new city", "is"], ["B-LOC", "O"]), (["10\u00a0000"], ["B-NUM"])],
    "nbsp.iob": [(["10\u00a0000", "of"], ["B-NUM", "O"])],
    "hash.conll": [(["#", "won"], ["O", "O"]), (["#tag", "#"], ["B-MISC", "O"])],
    "untagged.conll": [(["#tag", "won"], None), (["mary"], None)],
}


@pytest.mark.parametrize("name", CONLL)
def test_tokens_of_conll(name):
    source = load(name, CONLL[name])
    assert [(row["tokens"], row.get("tags")) for row in source.train] == SENTENCES[name]
    comments = {"multiconer.conll": 2, "untagged.conll": 1}.get(name)
    assert source.notes == ((f"{name}: {comments} comment lines (#...) are no tokens",) if comments else ())


def test_conllu_has_its_own_columns():
    lines = [
        "# text = vámonos ya",
        "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\tO",
        "2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\tO",
        "2.1\tcopy\t_\t_\t_\t_\t_\t_\t_\t_",
        "3\tya\tya\tADV\t_\t_\t1\tadvmod\t_\tO",
    ]
    [row] = load("a.conll", "\n".join(lines)).train
    assert row["tokens"] == ["vamos", "nos", "ya"] and row["upos"] == ["VERB", "PRON", "ADV"]
    assert "tags" not in row


BAD = {
    "joined.csv": (
        "text,label\na,x\n\ufefftext,label\n",
        "joined.csv:3: the header line again, as in joined files; take",
    ),
    "joined-lines.csv": (
        "text\na\n\ufefftext\n",
        "joined-lines.csv:3: the header line again, as in joined files; take",
    ),
    "two.csv": (
        "id,text;label\n1,a;x\n",
        "two.csv: fields may be between ',' (columns 'id', 'text;label') or ';' (columns 'id,text', 'label'); set"
        " data.separator to one of them",
    ),
    "neither.csv": ("a;b|c\n1;2|3;4\n5|6|7\n", "neither.csv: the header may be cut at ';' and '|', and rows fit none"),
    "uneven.csv": (
        "text;label\na;x\nb; c;y\n",
        "uneven.csv:3: 3 fields, but the header has 2; quote fields that hold semicolons",
    ),
    "one.csv": (
        "text\nhello, you\nand me\n",
        "one.csv:2: 2 fields, but the header has 1; quote fields that hold commas",
    ),
    "r.tsv": (
        '"text"\t"label"\n"1"\t"a"\t"x"\n',
        "r.tsv:2: 3 fields, but the header has 2; every row has one more, as R",
    ),
    "comment.csv": ("# made today\ntext,label\na,x\n", "comment.csv:2: 2 fields, but the header has 1; quote fields"),
    "packed.csv.gz": (b"\x1f\x8b\x08", "packed.csv.gz has a suffix that is not known; known are: .csv"),
    "packed.csv": (b"\x1f\x8b\x08", "packed.csv is compressed by gzip; unpack it first"),
    "sheet.csv": (b"PK\x03\x04..", "sheet.csv is a zip archive or an Excel workbook"),
    "wide.csv": ("text,label\na,x\n".encode("utf-16-le"), "wide.csv:1: holds a NUL character"),
    "list.jsonl": ('[\n{"text": "a"}\n]', "list.jsonl:1: one list of objects; name it .json; a .jsonl file has one"),
    "one.jsonl": (
        '[{"text": "a"}]',
        "one.jsonl:1: a list where an object is expected; one list of objects goes into a",
    ),
    "pretty.jsonl": ('{\n"text": "a"\n}', "pretty.jsonl:1: an object over several lines"),
    "lines.json": ('{"a": 1}\n{"a": 2}\n', "lines.json:2: not JSON: Extra data; one object a line goes into a .jsonl"),
    "wrapped.json": (
        '{"data": [{"text": "a"}]}',
        "wrapped.json: expected one list of objects, found an object with one",
    ),
    "columns.json": ('{"text": {"0": "a"}}', "columns.json: expected one list of objects, found an object of objects"),
    "deep.jsonl": ('{"a": ' + "[" * 100_000, "deep.jsonl:1: nested too deep to be a row"),
    "deep.json": ("[" + '{"a":' * 500 + "1" + "}" * 500 + "]", "deep.json: nested too deep to be a row"),
    "digits.json": ('[{"a": ' + "1" * 5000 + "}]", "digits.json: Exceeds the limit (4300 digits)"),
    "twice.jsonl": ('{"text": "a", "text": "b"}', "twice.jsonl:1: an object names 'text' twice"),
    "extra.conll": ("john B-PER\nnew city B-LOC\n", "extra.conll:2: 3 columns, but the lines before have 2; put tabs"),
    "mixed.conll": (
        "john\tB-PER\nworks O\n",
        "mixed.conll:2: no tab, but other lines have; separate all columns alike",
    ),
    "counted.conll": ("1 john O\n2 sat O\n", "counted.conll:1: column 1 counts the words, but CoNLL-U has 10 columns"),
    "2012.conll": ("#begin document (bc/cctv); part 000\n", "2012.conll:1: CoNLL-2012, with words in column 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_says_what_was_seen(name):
    content, message = BAD[name]
    with pytest.raises(ConfigError) as caught:
        load(name, content)
    assert str(caught.value).startswith(f"task_groups.g.data.files: {message}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_damaged_parquet_file_is_one_line(here):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [f"row {i}" for i in range(100)], "label": ["x", "y"] * 50}), here / "a.parquet")
    whole = (here / "a.parquet").read_bytes()
    refused = 0
    for place in range(4, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        try:
            load("b.parquet", bytes(damaged))
        except ConfigError as error:
            refused += 1
            assert str(error).startswith("task_groups.g.data.files: b.parquet: not a Parquet file: ")
    assert refused > 10
