"""Rows that do not fit max_length: cut, kept at their end, left out or refused, and counted wherever figures are."""

import json
from types import SimpleNamespace

import pytest
from support.tiny_models import word_tokenizer

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.length_fit import Fit
from atlas_cli.data.prepare import class_counts, prepare
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.manifest_facts import data_facts
from atlas_cli.tasks.contract import count_examples

LONG, SHORT = "the film was " * 6, "who was it"  # 18 and 3 tokens


def prepared(tmp_path, rule, task="instruction", length=8, train=None, test=None):
    """2 short rows, 3 whose prompt fills 8 tokens and 1 whose response does not fit; of test rows 1 of 2 fits."""
    prompts = [
        (SHORT, "john"),
        (SHORT + " now", "mary"),
        *[(f"{LONG}{n}", "paris") for n in "abc"],
        (SHORT, "good " * 9),
    ]
    train = train or [{"prompt": prompt, "response": response} for prompt, response in prompts]
    test = test or [{"prompt": LONG, "response": "x"}, {"prompt": "what", "response": "y"}]
    for name, rows in (("train", train), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"files": str(tmp_path / "train.jsonl"), "test_files": str(tmp_path / "test.jsonl")}
    config = ExperimentConfig.model_validate(
        {
            "name": "t",
            "model": {"name": "gpt2"},
            "task_groups": {"g": {"task": task, "data": data}},
            "clients": {"a": {"task_group": "g"}},
            "partition": {"local_test": 0},
            "training": {"max_length": length, "on_truncated": rule},
        }
    )
    return prepare(config, word_tokenizer(task in ("instruction", "causal-lm")), True)["g"]


@pytest.mark.parametrize("rule", ["cut", "keep-end", "drop"])
def test_examples_of_clients_and_fits_of_parts_are_those_of_their_features(tmp_path, rule):
    group = prepared(tmp_path, rule)
    assert group.examples == {"a": count_examples(group.train["a"])}
    assert group.fits == {
        "training": Fit.of(6, [*group.train["a"], *group.local_test["a"]]),
        "test": Fit.of(2, group.test),
    }


FITS = {  # of training and test rows: cut, left out
    "cut": ((1, 3), (0, 1)),
    "drop": ((0, 4), (0, 1)),
    "keep-end": ((4, 0), (1, 0)),
}


@pytest.mark.parametrize("rule", FITS)
def test_every_row_that_is_cut_or_left_out_is_counted(tmp_path, rule):
    group = prepared(tmp_path, rule)
    (cut, left_out), (test_cut, test_left_out) = FITS[rule]
    assert len(group.train["a"]) == 6 - left_out and len(group.test) == 2 - test_left_out
    assert sum(feature["truncated"] for feature in group.train["a"]) == cut
    assert all(max(feature["labels"][1:]) >= 0 for feature in group.train["a"]), "each has something to learn"
    lost = ", as nothing to learn was left of them" if rule == "cut" else ""
    said = (
        f"max_length 8: of 6 training rows {left_out} left out and {cut} cut; of 2 test rows {test_left_out} left"
        f" out and {test_cut} cut{lost} (training.on_truncated: {rule})"
    )
    assert group.notes[-1] == said
    [recorded] = data_facts(SimpleNamespace(data={"g": group}, generated={}, members=lambda _: [])).values()
    assert recorded["fit"] == {
        "training": {"rows": 6, "cut": cut, "left_out": left_out},
        "test": {"rows": 2, "cut": test_cut, "left_out": test_left_out},
    }
    assert said in recorded["notes"]


def test_what_does_not_fit_can_be_an_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        prepared(tmp_path, "error")
    assert str(caught.value) == (
        "training.on_truncated: is error, and 4 of 6 training rows and 1 of 2 test rows do not fit training.max_length"
        " 8; raise it, or use cut, keep-end or drop"
    )
    assert len(prepared(tmp_path, "error", length=32).train["a"]) == 6


def test_nothing_is_said_where_all_fits(tmp_path):
    assert not [note for note in prepared(tmp_path, "cut", length=32).notes if "max_length" in note]


def test_a_question_in_many_windows_is_one_row(tmp_path):
    def rows(n):
        return [{"question": f"who {i}", "context": "john lives in paris " * 9, "answers": "john"} for i in range(n)]

    group = prepared(tmp_path, "drop", "question-answering", 16, rows(3), rows(9)[7:])
    assert len(group.train["a"]) > 3 and not [note for note in group.notes if "max_length" in note]


def test_a_client_that_keeps_fewer_usable_examples_than_asked_for_is_refused(tmp_path):
    rows = [{"prompt": SHORT, "response": "john"}, *({"prompt": f"{LONG}{n}", "response": "x"} for n in "abc")]
    with pytest.raises(ConfigError) as caught:
        prepared(tmp_path, "drop", train=rows)
    assert str(caught.value) == (
        "partition.min_examples: client a has 1 usable examples among its 4, at least 2 are needed: the others are"
        " longer than training.max_length 8, and on_truncated is drop"
    )


def test_classes_are_shown_with_their_counts(tmp_path):
    def rows(labels):
        return [{"text": f"film {label} {i}", "label": label} for i, label in enumerate(labels)]

    group = prepared(tmp_path, "cut", "sequence-classification", 8, rows(["ham"] * 2 + ["spam"] * 3), rows(["ham"]))
    assert class_counts(group) == "spam 3, ham 2 (test: ham 1)"
