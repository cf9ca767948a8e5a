"""``atlas predict``: the predictions that evaluations score, for rows without labels, in their order."""

import csv
import io
import json
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from atlas_cli.cli import main
from atlas_cli.data.collate import WINDOW
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.inference.input_rows import Input, InputRow
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.inference.predictions import Predictor, columns_of
from atlas_cli.inference.scored_parts import part_of_run
from atlas_cli.inference.scoring import score

PAGE = (Path(__file__).parents[2] / "docs/reference/json-output.md").read_text(encoding="utf-8")
TEXTS = {"aggregation": {"method": "flora"}}


def predicted(loaded, rows, batch_size=None):
    given = [InputRow(f"rows:{number}", row) for number, row in enumerate(rows, start=1)]
    predict = Predictor(loaded, columns_of(loaded, given[0], lines=False), batch_size)
    return list(predict(given)), predict


def without_labels(loaded, rows):
    return [{name: value for name, value in row.items() if name not in loaded.task.label_fields} for row in rows]


@pytest.mark.parametrize(("task", "changes"), [("sequence-classification", TEXTS), ("regression", {})])
def test_predictions_are_those_that_an_evaluation_scores(make_toy_run, task, changes):
    loaded = open_model(make_toy_run(task, **changes).path)
    part = part_of_run(loaded)
    rows = without_labels(loaded, part.rows)
    found, predict = predicted(loaded, rows, batch_size=2)
    scored = score(loaded, part).outcomes.predicted
    labels = [row["label"] for row in found]
    assert labels == (scored if task != "regression" else pytest.approx(scored, rel=1e-4, abs=1e-5))
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert (predict.rows, predict.cut, predict.bare) == (len(rows), 0, 0)
    if task != "regression":
        assert all(row["score"] == max(row["scores"]) and sum(row["scores"]) == pytest.approx(1) for row in found)


def test_entities_are_at_the_characters_of_the_text_as_it_was_given(make_toy_run):
    loaded = open_model(make_toy_run("token-classification").path)
    asked = [{"tokens": "the  city\u00a0of paris"}, {"tokens": ["the", "city", "paris"]}]
    loaded.task.classes[:] = ["B-LOC", "O"]  # whatever it has learned, this one finds entities
    found, _ = predicted(loaded, asked)
    for row in found:
        text = row["tokens"] if isinstance(row["tokens"], str) else " ".join(row["tokens"])
        assert len(row["tags"]) == 3
        assert all(text[e["start"] : e["end"]] == e["text"] and e["type"] == "LOC" for e in row["entities"])
    given = {"tokens": "the  city\u00a0of paris"}
    said = {"tags": ["O", "B-LOC", "I-LOC"], "scores": [0.5, 0.8, 0.6]}
    (entity,) = loaded.task.placed_prediction(said, given)["entities"]
    assert entity == {"type": "LOC", "text": "city\u00a0of paris", "start": 5, "end": 18, "score": pytest.approx(0.7)}


def test_answers_stand_where_they_say(make_toy_run):
    loaded = open_model(make_toy_run("question-answering", training={"labels": "client"}).path)
    rows = [{"question": "what city", "context": f"{'a very ' * n}good film in paris"} for n in (1, 40, 2)]
    found, _ = predicted(loaded, rows)
    assert [row["context"] for row in found] == [row["context"] for row in rows]  # the second is read in windows
    assert all(row["context"][row["start"] : row["end"]] == row["answer"] for row in found)


def test_likelihoods_of_a_response(make_toy_run):
    loaded = open_model(make_toy_run("instruction", clients={"b": {"dtype": "bfloat16"}}).path)
    (row,), _ = predicted(loaded, [{"prompt": "the film", "response": "it was paris"}])
    assert row["log_likelihood"] == pytest.approx(-row["loss"] * row["tokens"])
    with pytest.raises(ConfigError, match="no column 'response'"):
        predicted(loaded, [{"prompt": "the film"}])


def test_rows_are_read_no_further_ahead_than_a_window(make_toy_run):
    loaded = open_model(make_toy_run(**TEXTS).path)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield InputRow(f"rows:{read}", {"text": "a film " * (1 + read % 5), "n": read})

    rows = endless()
    first = next(rows)
    found = Predictor(loaded, columns_of(loaded, first, lines=True), 2)(chain([first], rows))
    for number in range(1, 40):
        assert next(found)["n"] == number
        assert read <= number + 2 * WINDOW
    found.close()


READ = {
    "a.csv": 'id,text\n1,"a ""good"" film, and\nlong"\n2,bad\n',
    "semicolons.csv": 'sep=;\nid;text\n1;"a ""good"" film, and\nlong"\n2;bad\n',
    "found.csv": 'id;text\n1;"a ""good"" film, and\nlong"\n2;bad\n',
    "a.jsonl": '{"id": "1", "text": "a \\"good\\" film, and\\nlong"}\n\n{"id": "2", "text": "bad"}\n',
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_formats_give_the_same_rows(tmp_path, name, encoding):
    (tmp_path / name).write_text(READ[name], encoding=encoding, newline="")
    given = Input(str(tmp_path / name), wanted=["text"])
    rows = list(given)
    assert [row.row for row in rows] == [{"id": "1", "text": 'a "good" film, and\nlong'}, {"id": "2", "text": "bad"}]
    lines = {"a.csv": (2, 4), "semicolons.csv": (3, 5), "found.csv": (2, 4), "a.jsonl": (1, 3)}[name]
    assert [row.place for row in rows] == [f"{tmp_path / name}:{line}" for line in lines]


def test_quotes_of_unquoted_tabs_are_text_and_lines_are_texts(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"so" he said\n2\tit was 5"\n', encoding="utf-8")
    given = Input(str(tmp_path / "a.tsv"), wanted=["text"])
    assert [row.row["text"] for row in given] == [
        '"so" he said',
        'it was 5"',
    ] and "quotes are read as text" in given.notes[0]
    (tmp_path / "a.txt").write_text("one\n\n two \r\n", encoding="utf-8", newline="")
    given = Input(str(tmp_path / "a.txt"))
    assert [row.row for row in given] == [{"text": "one"}, {"text": "two"}] and given.skipped == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"id,text\n1,a\n2\n", r"a\.csv:3: 1 fields, but the header has 2"),
        ("a.csv", b'id,text\n1,a\n2,"b" c\n', r"a\.csv:3: .*double the quotes"),
        ("a.csv", b"text,text\na,b\n", r"a\.csv:1: column 'text' occurs twice"),
        ("a.csv", b"text\n", "has no rows"),
        ("a.csv", b"", "has no rows"),
        ("a.txt", b"one\ncaf\xe9\n", r"a\.txt:2: byte 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a\.jsonl:2: a list where an object is expected"),
        ("a.csv", b"PK\x03\x04...", "a zip archive"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        list(Input(str(tmp_path / name), wanted=["text"]))
    with pytest.raises(ResourceError, match="no such file"):
        Input(str(tmp_path / "none.csv"))


def test_a_row_that_cannot_be_predicted_leaves_no_file(make_toy_run, tmp_path, capsys):
    run = str(make_toy_run(**TEXTS).path)
    capsys.readouterr()
    file, out = tmp_path / "a.csv", tmp_path / "out.jsonl"
    for content, said in (
        ("id,text\n1,good\n2, \n", "a.csv:3, column 'text' is empty"),
        ("id,words\n1,good\n", "a.csv:2 has no column 'text' for the text"),
        ("id,text,label,predicted_label\n1,good,,\n", "a.csv:2: has a column 'predicted_label'"),
    ):
        file.write_text(content, encoding="utf-8")
        assert main(["predict", run, "--input", str(file), "--output", str(out)]) == 2
        assert said in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    for arguments, code, said in (
        (["--output", str(file)], 1, "exists and is not overwritten"),
        (["--output", str(tmp_path / "out.xlsx")], 2, "name it .jsonl or .csv"),
        (["--output", str(tmp_path / "none" / "out.csv")], 1, "there is no folder"),
        (["--json"], 2, "give --output FILE"),
        (["--group", "h"], 2, "no task group h"),
        (["--input", str(tmp_path / "b.csv")], 3, "no such file"),
    ):
        assert main(["predict", run, *arguments]) == code
        assert said in capsys.readouterr().err


def test_a_pair_that_was_trained_on_is_needed(make_toy_run, tmp_path, capsys):
    run = make_toy_run("regression")
    capsys.readouterr()
    file = tmp_path / "a.csv"
    file.write_text("text,other\na film,b\n", encoding="utf-8")
    loaded = open_model(run.path)
    data = loaded.config.task_groups["g"].data
    object.__setattr__(data, "text_pair", "second")
    with pytest.raises(ConfigError, match=r"no column 'second' for the text_pair"):
        columns_of(loaded, next(iter(Input(str(file), wanted=["text"]))), lines=False)


def test_standard_input_to_standard_output(make_toy_run, monkeypatch, capsys):
    run = make_toy_run(**TEXTS)
    capsys.readouterr()
    texts = ["a good film", "", "bad " * 100, "caf\u00e9"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts).encode())))
    assert main(["predict", str(run.path)]) == 0
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["text"] for row in rows] == [text.strip() for text in texts if text]
    assert "note: 1 row is longer than training.max_length 32: the start was read\n" in shown.err
    assert "blank lines" in shown.err


def test_a_csv_file_keeps_its_columns_and_json_is_as_documented(make_toy_run, tmp_path, capsys):
    run = make_toy_run(**TEXTS)
    capsys.readouterr()
    file, out = tmp_path / "a.csv", tmp_path / "out.csv"
    file.write_text('id,text,label\n7,"good, fine",?\n8,bad,?\n', encoding="utf-8")
    assert main(["predict", str(run.path), "--input", str(file), "--output", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    row = next(line for line in PAGE.splitlines() if line.startswith("| `atlas predict`"))
    assert set(told) == set(re.findall(r"`(\w+)`", row)) - {"null"} and told["rows"] == 2
    with out.open(encoding="utf-8", newline="") as written:
        rows = list(csv.DictReader(written))
    assert [row["id"] for row in rows] == ["7", "8"] and [row["label"] for row in rows] == ["?", "?"]
    assert list(rows[0]) == ["id", "text", "label", "predicted_label", "score", "scores"]
    assert rows[0]["predicted_label"] in ("neg", "pos") and len(json.loads(rows[0]["scores"])) == 2


@pytest.mark.slow
def test_a_reader_that_stops_ends_the_command_without_a_word(make_toy_run, tmp_path):
    run = make_toy_run(**TEXTS)
    (tmp_path / "many.txt").write_text("a film\n" * 5000, encoding="utf-8")
    command = [sys.executable, "-m", "atlas_cli", "predict", str(run.path), "--input", str(tmp_path / "many.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert json.loads(process.stdout.readline())["text"] == "a film"
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1 and said == ""
