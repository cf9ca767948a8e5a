"""A task group's data: columns, empty fields, test parts without leakage, classes, samples."""

import json
from collections import Counter

import pytest

from atlas_cli.config.schema.experiment import TaskGroupConfig
from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.data import read
from atlas_cli.errors import ConfigError
from atlas_cli.tasks import regression

SEQUENCE = "sequence-classification"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict]) -> str:
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def group(rows, test=None, task=SEQUENCE, classes=None, seed=0, duplicates=None, holdout=None, **data):
    holdout = {"duplicates": duplicates, **(holdout or {})}
    data = {"files": write("train.jsonl", rows)} | data
    if test is not None:
        data["test_files"] = write("test.jsonl", test)
    return read.read_group("g", TaskGroupConfig(task=task, classes=classes, data=data), seed, HoldoutConfig(**holdout))


def labelled(counts: dict[str, int]) -> list[dict]:
    return [{"text": f"{label} {i}", "label": label} for label, n in counts.items() for i in range(n)]


ROWS = labelled({"x": 30, "y": 10})


def test_columns_are_mapped_and_the_others_stay():
    rows = [{"message": f"m{i}", "kind": i % 2, "user": f"u{i}"} for i in range(10)]
    data = group(rows, [{"message": "t", "kind": 0, "user": "u"}], text="message", label="kind")
    assert data.train[3] == {"message": "m3", "kind": 1, "user": "u3", "text": "m3", "label": "1"}
    assert data.test == [{"message": "t", "kind": 0, "user": "u", "text": "t", "label": "0"}]
    assert data.columns == {"text": "message", "label": "kind"}
    assert data.classes == ["0", "1"] and data.name == "g" and data.origin == "files train.jsonl"


def test_an_optional_column_is_used_where_it_is_and_left_out_where_empty():
    rows = [{"text": f"{i}", "text_pair": "p" if i % 2 else "", "label": str(i % 2)} for i in range(10)]
    data = group(rows, [{"text": "t", "label": "0", "text_pair": None}])
    assert ["text_pair" in row for row in data.train[:2]] == [False, True]
    assert data.notes == ("6 of 11 rows have no text_pair and are read without one",)
    whole = group([row | {"text_pair": "p"} for row in rows], [{"text": "t", "label": "0", "text_pair": "p"}])
    assert not whole.notes


BAD_ROWS = {
    "column": (
        [{"txt": "a", "label": "x"}],
        {},
        "data.text: the data has no column 'text'; did you mean txt? (columns: txt, label)",
    ),
    "named column": (
        [{"text": "a", "label": "x"}],
        {"label": "kind"},
        "data.label: the data has no column 'kind'; expected one of: label, text",
    ),
    "empty text": (
        [{"text": "a", "label": "x"}, {"text": " ", "label": "x"}],
        {},
        "data.text: row 2 of the training data, column 'text' is empty; fill it or drop the row",
    ),
    "null label": (
        [{"text": "a", "label": None}],
        {},
        "data.label: row 1 of the training data, column 'label' is empty; fill it or drop the row",
    ),
    "missing label": (
        [{"text": "a", "label": "x"}, {"text": "b"}],
        {},
        "data.label: row 2 of the training data has no column 'label'; expected one of: text",
    ),
    "chat as text": (
        [{"text": [{"role": "user", "content": "hi"}], "label": "x"}],
        {},
        "data.text: row 1 of the training data, column 'text' holds list ([{'role': 'user', 'content': 'hi'}]),"
        " expected text (task: chat reads lists of turns)",
    ),
    "number as text": (
        [{"text": 5, "label": "x"}],
        {},
        "data.text: row 1 of the training data, column 'text' holds int (5), expected text",
    ),
    "real label": (
        [{"text": "a", "label": 0.5}],
        {},
        "data.label: row 1 of the training data, column 'label' holds float (0.5), expected text or a whole number"
        " (task: regression predicts numbers)",
    ),
    "one class": (
        [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}],
        {},
        "data: all training rows have the label 'x'; at least 2 classes are needed",
    ),
    "one row a label": (
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
        {},
        "data: no test part can be held out of 2 rows: every label occurs once; give a test part",
    ),
    "split_by": (
        ROWS,
        {"split_by": "usr"},
        "data.split_by: the data has no column 'usr'; expected one of: label, text",
    ),
    "split_by without a value": (
        [*ROWS, {"text": "a", "label": "x", "d": ""}, {"text": "b", "label": "x", "d": 1}],
        {"split_by": "d"},
        "data.split_by: 41 of 42 rows have no value in column 'd', the first is row 1; fill it, or give a test part",
    ),
    "one document": (
        [row | {"d": 1} for row in ROWS],
        {"split_by": "d"},
        "data: no test part can be held out of 40 rows: all rows share one value of 'd'; give a test part",
    ),
    "only repeats": (
        [{"text": "a", "label": "x"}] * 5 + [{"text": "b", "label": "y"}] * 5,
        {},
        "data: no test rows are left: each of the 2 repeats a training row; give other test rows, or set"
        " holdout.duplicates: keep",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_name_the_key_and_the_row(case):
    rows, data, message = BAD_ROWS[case]
    with pytest.raises(ConfigError) as caught:
        group(rows, **data)
    assert str(caught.value) == f"task_groups.g.{message}"


def test_bad_labels_name_the_classes_key():
    with pytest.raises(ConfigError) as caught:
        group([*ROWS, {"text": "a", "label": "yy"}], classes=["x", "y"])
    assert str(caught.value) == (
        "task_groups.g.classes: row 41 of the training data has the label 'yy'; did you mean y?; add it or fix it"
    )
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.classes: the label 'z' occurs only in the test part"):
        group(ROWS, [{"text": "a", "label": "z"}])
    assert group(ROWS, [{"text": "a", "label": "z"}], classes=["z", "y", "x"]).classes == ["z", "y", "x"]
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.classes: causal-lm has no classes; remove this key"):
        group(ROWS, task="causal-lm", classes=["a", "b"])


def test_the_held_out_part_keeps_the_shares_of_labels():
    data = group(ROWS, test_fraction=0.2)
    assert Counter(row["label"] for row in data.test) == {"x": 6, "y": 2}
    assert Counter(row["label"] for row in data.train) == {"x": 24, "y": 8}
    assert sorted(row["text"] for row in data.train + data.test) == sorted(row["text"] for row in ROWS)


def test_a_rare_label_stays_in_training():
    data = group(labelled({"x": 20, "rare": 1}), test_fraction=0.5)
    assert [row["label"] for row in data.train].count("rare") == 1 and len(data.test) == 10


@pytest.mark.parametrize("seed", range(5))
def test_no_document_is_on_both_sides(seed):
    rows = [row | {"document": f"d{i % 7}"} for i, row in enumerate(ROWS)]
    data = group(rows, split_by="document", test_fraction=0.3, seed=seed)
    train, test = ({row["document"] for row in part} for part in (data.train, data.test))
    assert train and test and not train & test and len(train | test) == 7
    assert 12 <= len(data.test) <= 17, "the last document may overshoot, by at most its own rows"


def test_repeats_of_training_rows_are_counted_and_leave_a_held_out_part_alone():
    test = [*ROWS[:3], {"text": "x 0", "label": "y"}, {"text": "new", "label": "y"}]
    texts = ["x 0", "x 1", "x 2", "x 0", "new"]
    for rule, kept, done in ((None, texts, "kept"), ("keep", texts, "kept"), ("drop", texts[3:], "left out")):
        data = group(ROWS, test, duplicates=rule)
        assert [row["text"] for row in data.test] == kept
        assert data.account.sentence() == (
            "40 training rows, 5 test rows of the source's own, 3 of these repeat training rows and are"
            f" {done} (holdout.duplicates): 40 to train on, {len(kept)} to test on"
        )
    with pytest.raises(ConfigError) as caught:
        group(ROWS, test[::-1], duplicates="error")
    assert str(caught.value) == (
        "holdout.duplicates: 3 of 5 test rows of task group g repeat a training row, the first is test row 3; make the"
        " parts differ, or use drop or keep"
    )
    assert len(group(ROWS, test[3:], duplicates="error").test) == 2


def test_what_is_held_out_of_doubled_rows():
    data = group(ROWS * 2)
    train = {row["text"] for row in data.train}
    assert not train & {row["text"] for row in data.test}
    account = data.account
    assert (account.read, account.test_read, account.test) == (80, 16, len(data.test))
    assert account.repeats == 16 - len(data.test) > 0
    assert f"80 rows, 16 held out to test on, {account.repeats} of these repeat" in account.sentence()
    kept = group(ROWS * 2, duplicates="keep")
    assert len(kept.test) == 16 and kept.train == data.train and kept.account.repeats == account.repeats


def test_rows_are_numbered_as_the_source_has_them():
    data = group(ROWS, limit=20, test_limit=3)
    assert [ROWS[i] for i in data.numbered.rows] == data.train
    assert all(row in [ROWS[i] for i in data.numbered.held_out] for row in data.test)
    assert not set(data.numbered.rows) & set(data.numbered.held_out) and data.numbered.read == 40
    assert data.account.sentence() == (
        "40 rows, 8 held out to test on, limit takes 20 of 32, test_limit takes 3 of 8: 20 to train on, 3 to test on"
    )


def test_a_file_that_is_named_twice_is_read_once_and_said():
    data = group(ROWS, files=["train.jsonl", "*.jsonl"])
    assert data.account.read == len(ROWS)
    assert data.notes == ("files name more than once, and read once: train.jsonl",)
    with pytest.raises(ConfigError) as caught:
        group(ROWS, [{"text": "t", "label": "x"}], files="*.jsonl")
    assert str(caught.value) == (
        "task_groups.g.data.test_files: test.jsonl is among the training files too; narrow data.files"
    )
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.data\.test_files: names no file$"):
        group(ROWS, test_files=[])


def test_an_optional_column_of_the_test_part_alone_is_refused():
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.data\.text_pair: the test data has a column 'text_pair'"):
        group(ROWS, [{"text": "t", "label": "x", "text_pair": "p"}])
    pairs = [row | {"second": "p"} for row in ROWS]
    with pytest.raises(ConfigError, match=r"^task_groups\.g\.data\.text_pair: the training data has a column 'second'"):
        group(pairs, [{"text": "t", "label": "x"}], text_pair="second")


def test_a_test_part_without_a_column_says_so():
    with pytest.raises(ConfigError) as caught:
        group(ROWS, [{"txt": "t", "label": "x"}])
    assert str(caught.value) == (
        "task_groups.g.data.text: row 1 of the test data has no column 'text'; did you mean txt?"
    )


def test_seeds_decide_and_repeat():
    a, b, c = group(ROWS, seed=1), group(ROWS, seed=1), group(ROWS, seed=2)
    assert a == b and a.test != c.test and a.sha256 == c.sha256


def test_limits_are_samples_that_keep_order_and_classes():
    full = group(ROWS)
    data = group(ROWS, limit=2, test_limit=3)
    assert len(data.train) == 2 and len(data.test) == 3
    assert data.classes == full.classes == ["x", "y"]
    assert [row for row in full.train if row in data.train] == data.train
    assert group(ROWS, limit=1000) == full


@pytest.mark.parametrize("option", [{"test_fraction": 0.3}, {"split_by": "text"}])
def test_split_options_beside_an_official_test_part_are_refused(option):
    with pytest.raises(ConfigError, match="has no use here: the source has its own test part"):
        group(ROWS, [{"text": "t", "label": "x"}], **option)


def test_token_classification_takes_lists_or_words_with_spaces():
    rows = [{"tokens": "EU says", "tags": "B O"}, {"tokens": ["a"], "tags": ["O"]}] * 2
    rows[3] = {"tokens": ["b"], "tags": ["O"]}
    data = group(rows[:2], rows[3:], task="token-classification")
    assert data.train[0]["tokens"] == ["EU", "says"] and data.train[0]["tags"] == ["B", "O"]
    assert data.classes == ["B", "O"]
    spaced = group([{"tokens": " 10\u00a0000  men ", "tags": "B O"}] * 2, rows[3:], task="token-classification")
    assert spaced.train[0]["tokens"] == ["10\u00a0000", "men"]
    with pytest.raises(ConfigError) as caught:
        group([*rows, {"tokens": "a b", "tags": "O"}], task="token-classification")
    assert str(caught.value) == (
        "task_groups.g.data.tags: row 5 of the training data has 2 tokens but 1 tags; each token needs one"
    )


def test_question_answering_keeps_answers_as_they_are():
    answers = [{"text": ["b"], "answer_start": [2]}, {"text": [], "answer_start": []}]
    rows = [{"question": f"q{i}", "context": "a b", "answers": answers[i % 2]} for i in range(10)]
    data = group(rows, task="question-answering")
    assert len(data.test) == 2 and data.classes == []
    assert all(row["answers"] in answers for row in data.train)


def test_tasks_without_labels():
    assert len(group([{"text": f"t{i}"} for i in range(10)], task="causal-lm").test) == 2
    rows = [{"prompt": f"p{i}", "response": "r"} for i in range(10)]
    assert len(group(rows, task="instruction").train) == 8


def test_a_task_without_classes_takes_numbers_and_holds_out_by_rows():
    rows = [{"text": f"t{i}", "score": f"{i / 7:.2f}"} for i in range(40)]
    data = group(rows, task="regression", label="score")
    assert len(data.test) == 8 and data.classes == []
    assert all(row["label"] == float(row["score"]) for row in data.train)
    with pytest.raises(ConfigError, match=r"task_groups\.g\.classes: regression has no classes; remove this key"):
        group(rows, task="regression", label="score", classes=["0", "1"])


def test_a_field_that_is_no_key_is_read_from_the_column_of_its_name(monkeypatch):
    monkeypatch.setattr(regression.Task, "fields", ("text", "label", "doubt"))
    rows = [{"text": f"t{i}", "label": i, "doubt": "much"} for i in range(10)]
    assert group(rows, task="regression").columns["doubt"] == "doubt"
    with pytest.raises(ConfigError, match=r"g\.data\.doubt: the data has no column 'doubt'"):
        group([{"text": f"t{i}", "label": i} for i in range(10)], task="regression")


@pytest.mark.slow
def test_a_packaged_corpus_is_split_by_document(monkeypatch):
    config = TaskGroupConfig(task="causal-lm", data={"corpus": "python-stdlib", "limit": 50})
    data = read.read_group("code", config, 0)
    assert len(data.train) == 50 and data.origin == "corpus python-stdlib"
    assert not {row["document"] for row in data.train} & {row["document"] for row in data.test}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"corpus": ["a", "b"]}, "data.corpus: give one name"),
        ({"corpus": "trec-questions", "test_files": "x"}, "data.test_files: only goes with files"),
        ({"corpus": "trec-questions", "split": "x"}, "data.split: only goes with hub"),
    ],
)
def test_bad_corpus_sections(data, message):
    with pytest.raises(ConfigError) as caught:
        read.read_group("g", TaskGroupConfig(task=SEQUENCE, data=data), 0)
    assert str(caught.value).startswith(f"task_groups.g.{message}")


def test_labels_that_stand_for_no_label_are_refused_unless_they_are_listed():
    rows = [*ROWS, {"text": "a", "label": "nan"}, {"text": "b", "label": "NaN"}, {"text": "c", "label": "nan"}]
    with pytest.raises(ConfigError) as caught:
        group(rows)
    assert str(caught.value) == (
        "task_groups.g.data: row 41 of the training data has the label 'nan' (also 'NaN'), as programs write a missing"
        " value (3 in all); fill it or drop the row, or list all classes, this one too, under classes"
    )
    with pytest.raises(ConfigError, match=r"row 2 of the test data has the label 'None', as programs write"):
        group(ROWS, [{"text": "t", "label": "x"}, {"text": "u", "label": "None"}])
    assert group(rows, classes=["x", "y", "nan", "NaN"]).classes == ["x", "y", "nan", "NaN"]


def test_codes_for_no_label_are_no_classes_in_silence():
    ignored = [{"tokens": f"a b{i}", "tags": [0, 1 if i else -100]} for i in range(20)]
    with pytest.raises(
        ConfigError, match=r"row 1 of the training data has the label '-100', as programs write a missi"
    ):
        group(ignored, task="token-classification")
    (note,) = group(labelled({"0": 9, "1": 9, "2": 9, "-1": 5})).notes
    assert note == (
        "class '-1' (5) stands beside '0': Hugging Face data sets write -1 where a row has no label; if it is none,"
        " drop these rows"
    )
    assert not group(labelled({"-1": 9, "1": 9})).notes


@pytest.mark.parametrize(
    "labels", [[f"{i // 2 / 8:.3f}" for i in range(80)], [f"{i % 10 / 2}" for i in range(40)], ["0.5", "1", "0.5", "1"]]
)
def test_numbers_with_decimals_are_no_classes(labels):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    first, second = list(dict.fromkeys(labels))[:2]
    with pytest.raises(ConfigError) as caught:
        group(rows)
    assert str(caught.value).startswith(
        f"task_groups.g.data: the labels of the training data are numbers with decimals, such as {first} and {second}: "
        f"{len(set(labels))} different ones in {len(labels)} rows would be as many classes. Use task: regression"
    )
    assert len(group(rows, classes=sorted(set(labels))).classes) == len(set(labels))


@pytest.mark.parametrize("numbers", [range(6), ["0", "1", "2"], ["1.0", "2.0"]])
def test_whole_numbers_are_classes(numbers):
    rows = [{"text": f"t{i}", "label": numbers[i % len(numbers)]} for i in range(24)]
    assert group(rows).classes == [str(number) for number in numbers]


NEAR = {
    ("café", "cafe\u0301"): "Unicode form (NFC and NFD)",
    ("Spam", "spam"): "case",
    ("very good", "very  good"): "white space",
    ("1", "1.0"): "how the number is written",
    ("ok", "ok\u200b"): "characters that are not seen",
    ("\uff2fk", "Ok"): "look-alike characters",
    ("\uff2fk", "ok"): "case, white space and Unicode form",
}


@pytest.mark.parametrize(("pair", "how"), NEAR.items(), ids=lambda value: str(value))
def test_near_equal_classes_are_said_with_their_counts(pair, how):
    a, b = sorted(pair)
    data = group(labelled({a: 30, b: 10, "other": 20}), classes=None)
    assert len(data.classes) == 3
    said = f"classes {a!r} (30) and {b!r} (10) differ only in {how}; if they are one class, spell it alike in the data"
    assert data.notes == (said,)


def test_columns_of_another_task_name_it():
    rows = [{"conversations": [{"from": "human", "value": "a"}]}] * 2
    with pytest.raises(ConfigError, match=r"no column 'prompt'.*; these are columns of task: chat$"):
        group(rows, task="instruction")


DIFFERENT = {
    "user {}": "task: instruction learns to write texts",
    "user{}": "name the column of the classes",
    "{}": "task: regression predicts numbers",
    "sport;b{}": "if they are several classes each, use task: multi-label",
}


@pytest.mark.parametrize(("form", "fits"), DIFFERENT.items())
def test_labels_that_are_mostly_different_are_no_classes(form, fits):
    rows = [{"text": f"t{i}", "label": form.format(i % 30)} for i in range(50)]
    with pytest.raises(ConfigError) as caught:
        group(rows)
    assert f"50 labels of the training data are 30 different ones, such as {form.format(0)!r}" in str(caught.value)
    assert f": more than half; {fits}" in str(caught.value)
    assert len(group(rows, classes=sorted({row["label"] for row in rows})).classes) == 30
    assert len(group([{**row, "label": form.format(i % 25)} for i, row in enumerate(rows)]).classes) == 25


def test_half_a_surrogate_pair_names_its_row():
    with pytest.raises(ConfigError) as caught:
        group([*ROWS, {"text": "a \ud83d b", "label": "x"}])
    assert str(caught.value) == (
        "task_groups.g.data.text: row 41 of the training data, column 'text' holds half of a surrogate pair (\\ud83d)"
        " at character 3, which is no character; write the whole pair or drop it"
    )
    assert group([*ROWS, {"text": "a \ud83d\ude00 b", "label": "x"}]).classes == ["x", "y"]


@pytest.mark.parametrize("tokens", ["['EU', 'says']", "['EU' 'says']", "[3 0]"])
def test_lists_written_as_text_are_no_words(tokens):
    rows = [{"tokens": tokens, "tags": "O O"}] * 4
    with pytest.raises(ConfigError, match=r"row 1 of the training data, column 'tokens' holds a list written as text"):
        group(rows, task="token-classification")
    assert group(
        [{"tokens": "[ 1 ]", "tags": "O B O"}] * 3, [{"tokens": "a", "tags": "O"}], task="token-classification"
    )


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["a"], "answer_start": 0}, "field 'answers' has 1 texts but int as positions"),
        ({"text": ["a"], "answer_start": [0, 1]}, "field 'answers' has 1 texts but 2 positions"),
        ([None], "field 'answers' must be text, a list of"),
        ([{"text": "a", "answer_start": True}], "field 'answers' must be text, a list of"),
        (
            "{'text': ['a']}",
            "answer \"{'text': ['a']}\" is not in the context; it looks like a mapping or list written",
        ),
        ("zebra", "answer 'zebra' is not in the context; fix the data"),
    ],
)
def test_malformed_answers_name_their_row(answers, message):
    rows = [{"question": f"q{i}", "context": "a b", "answers": "a"} for i in range(5)]
    rows[3]["answers"] = answers
    with pytest.raises(ConfigError) as caught:
        group(rows, task="question-answering")
    assert str(caught.value).startswith(f"task_groups.g.data: row 4 of the training data: {message}")


def test_words_for_a_missing_text_are_said():
    rows = [
        *ROWS,
        {"text": "#NAME?", "label": "x"},
        {"text": "nan", "label": "x"},
        {"text": "NaN is a band", "label": "y"},
    ]
    assert group(rows, [{"text": "nan", "label": "x"}]).notes[-1] == (
        "3 rows have no text but a word for a missing one: nan 2, #NAME? 1"
    )
