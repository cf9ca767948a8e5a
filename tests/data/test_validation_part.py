"""The validation part: disjoint from the others, the test part untouched, every row accounted for."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.config.schema.experiment import TaskGroupConfig
from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.data import read
from atlas_cli.data.rows import SourceRows, digest_of_parts, identity
from atlas_cli.errors import ConfigError

SEQUENCE = "sequence-classification"
ROWS = [{"text": f"{label} {i}", "label": label} for label, n in {"x": 60, "y": 20}.items() for i in range(n)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: list[dict]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def group(rows=ROWS, validation=0.1, seed=0, duplicates=None, test=None, **data):
    section = {"files": write("train.jsonl", rows), **data}
    if test is not None:
        section["test_files"] = write("test.jsonl", test)
    config = TaskGroupConfig(task=SEQUENCE, data=section)
    return read.read_group("g", config, seed, HoldoutConfig(validation=validation, duplicates=duplicates))


def texts(rows):
    return [row["text"] for row in rows]


@settings(max_examples=40)
@given(
    labels=st.lists(st.sampled_from("ab"), min_size=12, max_size=60).filter(
        lambda labels: min(Counter(labels).get(label, 0) for label in "ab") >= 4
    ),
    words=st.integers(3, 60),
    size=st.floats(0.02, 0.5) | st.integers(1, 6),
    own_test=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_two_parts_share_a_row_and_none_is_lost(labels, words, size, own_test, seed):
    rows = [{"text": f"{label} {i % words}", "label": label} for i, label in enumerate(labels)]
    test = [{"text": "a new", "label": "a"}] if own_test else None
    source = SourceRows([*rows], test, "here", digest_of_parts(rows, test, None))
    config = TaskGroupConfig(task=SEQUENCE, data={"files": "x"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "read_source", lambda *_: source)
        try:
            data = read.read_group("g", config, seed, HoldoutConfig(validation=size))
        except ConfigError as error:
            assert "repeats" in str(error), "only rows that repeat others may leave nothing"
            return
        without = read.read_group("g", config, seed)
    assert data.test == without.test and data.classes == without.classes
    fields = list(data.columns)
    train, tested, validated = (
        {identity(row, fields) for row in part} for part in (data.train, data.test, data.validation)
    )
    assert not validated & train and not validated & tested and not train & tested
    numbers = [*data.numbered.rows, *data.numbered.held_out, *data.numbered.validation]
    assert sorted(numbers) == list(range(len(rows)))
    of_validation = data.account.validation
    assert of_validation.read == len(data.numbered.validation)
    assert of_validation.read - of_validation.repeats == of_validation.used == len(data.validation)
    assert data.account.train == data.account.available[0] == len(data.train)


def test_a_share_or_a_number_of_rows_with_the_same_share_of_every_label():
    for size in (0.2, 16):
        data = group(validation=size)
        assert Counter(row["label"] for row in data.validation) == {"x": 12, "y": 4}
        assert Counter(row["label"] for row in data.train) == {"x": 36, "y": 12}
    assert data.account.sentence() == (
        "80 rows, 16 held out to test on, 16 held out to validate on: 48 to train on, 16 to test on, 16 to validate on"
    )
    assert data.account.record()["validation"] == {
        **{"own": False, "read": 16, "repeats": 0, "duplicates": "drop", "used": 16}
    }
    assert texts(group(seed=1).validation) != texts(group(seed=2).validation)
    assert group(seed=1) == group(seed=1)


def test_without_one_nothing_speaks_of_it():
    data = group(validation=None)
    assert data.validation == [] and data.held_out.keys() == {"test"}
    assert "validat" not in json.dumps(data.account.record()) + data.account.sentence()


def test_rows_that_repeat_training_or_test_rows():
    own = [*ROWS[:2], {"text": "seen in test", "label": "x"}, {"text": "new", "label": "y"}]
    test = [{"text": "seen in test", "label": "x"}, {"text": "other", "label": "y"}]
    files = {"validation_files": write("validation.jsonl", own)}
    for rule, kept, done in ((None, own, "kept"), ("keep", own, "kept"), ("drop", own[3:], "left out")):
        data = group(test=test, duplicates=rule, validation=None, **files)
        assert texts(data.validation) == texts(kept) and len(data.train) == 80
        assert data.account.sentence() == (
            "80 training rows, 2 test rows of the source's own, 4 validation rows of the source's own, 3 of these"
            f" repeat training or test rows and are {done} (holdout.duplicates): 80 to train on, 2 to test on,"
            f" {len(kept)} to validate on"
        )
    with pytest.raises(ConfigError) as caught:
        group(test=test, duplicates="error", validation=None, **files)
    assert str(caught.value) == (
        "holdout.duplicates: 3 of 4 validation rows of task group g repeat a training or test row, the first is"
        " validation row 1; make the parts differ, or use drop or keep"
    )


def test_how_much_is_held_out_to_test_on():
    config = TaskGroupConfig(task=SEQUENCE, data={"files": write("train.jsonl", ROWS)})
    assert len(read.read_group("g", config, 0, HoldoutConfig(test=8)).test) == 8
    config = TaskGroupConfig(task=SEQUENCE, data={"files": "train.jsonl", "test_fraction": 0.5})
    assert len(read.read_group("g", config, 0, HoldoutConfig(test=8)).test) == 40


def test_validation_files_come_before_a_share_and_are_in_the_hash():
    own = [{"text": "v", "label": "x"}, {"text": "w", "label": "y"}, {"text": "u", "label": "y"}]
    data = group(validation=0.5, validation_limit=2, validation_files=write("validation.jsonl", own))
    assert len(data.validation) == 2 and not set(texts(data.validation)) - set(texts(own))
    assert len(data.train) == 64 and data.numbered.validation == []
    assert data.account.sentence().endswith(
        "validation_limit takes 2 of 3: 64 to train on, 16 to test on, 2 to validate on"
    )
    assert data.sha256 != group(validation=0.5).sha256


def test_whole_documents_stay_in_one_part():
    rows = [row | {"document": f"d{i % 9}"} for i, row in enumerate(ROWS)]
    data = group(rows, validation=0.2, split_by="document")
    parts = [{row["document"] for row in part} for part in (data.train, data.test, data.validation)]
    assert all(parts) and sum(map(len, parts)) == 9 == len(set.union(*parts))
    data = group(rows, validation=0.2, split_by="document", test=[{"text": "t", "label": "x"}])
    assert not {row["document"] for row in data.train} & {row["document"] for row in data.validation}


REFUSED = {
    "holdout.validation: no validation part of 64 rows can be held out of 80 rows, of which 64 are left; make it"
    " smaller, or give one": {"validation": 64},
    "holdout.validation: no validation part of a share of 0.9 can be held out of 80 rows, of which 64 are left; make it"
    " smaller, or give one": {"validation": 0.9},
    "task_groups.g.data.validation_limit: has no use here: there is no validation part; set holdout.validation, or"
    " remove this key": {"validation": None, "validation_limit": 3},
    "task_groups.g.data.validation_files: train.jsonl is among the training files too; narrow data.files": {
        "validation_files": "train.jsonl"
    },
    "task_groups.g.data.validation_files: test.jsonl is among the test files too; narrow data.test_files": {
        "test": [{"text": "t", "label": "x"}],
        "validation_files": "test.jsonl",
    },
    "task_groups.g.data.validation_split: only goes with hub, this group reads files; remove it": {
        "validation_split": "validation"
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(message):
    with pytest.raises(ConfigError) as caught:
        group(**REFUSED[message])
    assert str(caught.value) == message


def test_a_class_of_the_validation_part_alone_is_refused():
    own = {"validation_files": write("validation.jsonl", [{"text": "v", "label": "z"}])}
    with pytest.raises(ConfigError, match=r"g\.classes: the label 'z' occurs only in the validation part; list all"):
        group(validation=None, **own)


@pytest.mark.parametrize("size", [0, 1.5, -0.1, 0.0, True, "0.1"])
def test_a_size_that_is_neither_share_nor_number_is_refused(size):
    with pytest.raises(ValueError, match="validation"):
        HoldoutConfig(validation=size)
