"""What a first look at rows takes their columns for."""

import pytest

from atlas_cli import tasks
from atlas_cli.data.first_look import fields_of, likely_task, looks_like_a_row

TEXTS = ["a long sentence about something", "another one, longer than all labels", "short", "and a fourth"]


def rows(**columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("columns", "task", "fields"),
    [
        (
            {"Sentence": TEXTS, "Stars": ["1", "2", "1", "2"]},
            "sequence-classification",
            {"text": "Sentence", "label": "Stars"},
        ),
        ({"a": [*"wxyz"], "b": TEXTS, "c": [*"ppqq"]}, "sequence-classification", {"text": "b", "label": "c"}),
        (
            {"id": [*"6789"], "body": TEXTS, "urgency": [*"abab"]},
            "sequence-classification",
            {"text": "body", "label": "urgency"},
        ),
        ({"text": TEXTS, "score": ["0.5", "1", "3", "2"]}, "regression", {"text": "text", "label": "score"}),
        (
            {"sentence1": TEXTS, "sentence2": TEXTS, "label": [0, 1, 0, 1]},
            "sequence-classification",
            {"text": "sentence1", "label": "label", "text_pair": "sentence2"},
        ),
        ({"instruction": TEXTS, "output": TEXTS}, "instruction", {"prompt": "instruction", "response": "output"}),
        ({"question": TEXTS, "answer": TEXTS}, "instruction", {"prompt": "question", "response": "answer"}),
        (
            {"words": [["a", "b"]] * 4, "ner_tags": [["O", "X"]] * 4},
            "token-classification",
            {"tokens": "words", "tags": "ner_tags"},
        ),
        ({"body": TEXTS, "id": [1, 2, 3, 4]}, "causal-lm", {"text": "body"}),
        ({"body": TEXTS, "topic": [["a"], [], ["a", "b"], ["b"]]}, "multi-label", {"text": "body", "label": "topic"}),
        ({"id": [1, 2, 3, 4], "conversations": [[{"from": "human"}]] * 4}, "chat", {"messages": "conversations"}),
        (
            {"question": TEXTS, "options": [["a", "b"]] * 4, "answerKey": [0, 1, 0, 1], "context": TEXTS},
            "multiple-choice",
            {"question": "question", "choices": "options", "answer": "answerKey", "context": "context"},
        ),
        (
            {"instruction": TEXTS, "input": TEXTS, "output": TEXTS},
            "instruction",
            {"prompt": "instruction", "response": "output", "input": "input"},
        ),
    ],
)
def test_columns_and_what_they_hold_say_the_task(columns, task, fields):
    found = rows(**columns)
    assert likely_task(found) == task
    assert fields_of(tasks.load(task), found, {}) == fields


def test_columns_that_are_for_nothing():
    assert likely_task(rows(id=[1, 2], when=[3, 4])) is None


def test_what_is_given_comes_first():
    found = rows(text=TEXTS, body=TEXTS, label=[*"abab"])
    task = tasks.load("sequence-classification")
    assert fields_of(task, found, {"text": "body"}) == {"text": "body", "label": "label"}


HEADERS = {
    "id,description": False,
    "Ticket No,free_text": False,
    "Nr,überschrift": False,
    "id,body": False,
    "1,this is mail 1": True,
    "first,this is what somebody wrote": True,
    "word 0,3 apples": True,
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_told_from_a_row(header):
    number, text = header.split(",")
    table = [{number: str(i), text: f"this is mail {i}"} for i in range(9)]
    assert looks_like_a_row(table) is HEADERS[header]
