"""Shortcuts for many rows: what they give is what the long way gives."""

import json
import random
from collections import Counter
from datetime import date
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import WORDS, word_tokenizer

from atlas_cli import tasks
from atlas_cli.data import class_names, token_cache
from atlas_cli.data import rows as data_rows
from atlas_cli.data.length_fit import Fit
from atlas_cli.data.rows import digest, identity
from atlas_cli.data.source_parts import SourceParts
from atlas_cli.data.task_fields import canonical, with_fields
from atlas_cli.errors import ConfigError
from atlas_cli.tasks._texts import TextTask
from atlas_cli.tasks.contract import BaseTask, count_examples

VALUES = st.text(max_size=4) | st.sampled_from(["\ud800", '"', "é", "\x00", 1, None, 2.5, ["a"]])
TABLES = st.sampled_from([st.text(max_size=4), st.sampled_from(["a", " a", "b c"])]).flatmap(
    lambda value: st.lists(st.fixed_dictionaries(dict.fromkeys(["label", "text", 'q"'], value)), max_size=5)
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["text", "label", "z%", 'q"']), VALUES, max_size=4), max_size=6)


@settings(max_examples=60)
@given(ROWS | TABLES, ROWS | TABLES, st.sampled_from([1, 2, 1000]))
def test_the_digest_of_rows_is_that_of_their_json(train, test, at_once):
    wanted = sha256()
    for part in (train, test):
        wanted.update(b"\x1e")
        for row in part:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
            wanted.update(line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data_rows, "_AT_ONCE", at_once)
        assert digest(train, test) == wanted.hexdigest()


@settings(max_examples=100)
@given(ROWS | TABLES, st.sampled_from(["text", "z%"]), st.sampled_from(["label", 'q"']))
def test_fields_of_plain_texts_are_those_of_each_row_by_itself(rows, text, label):
    columns, task = {"text": text, "label": label}, tasks.load("sequence-classification")

    def one_by_one():
        return [with_fields(row, columns, task, f"row {n} of the x", "k") for n, row in enumerate(rows, start=1)]

    found = []
    for way in (one_by_one, lambda: canonical(rows, columns, task, "x", "k")):
        try:
            made = way()
            found.append([list(row.items()) for row in made])
            assert not any(new is row for new, row in zip(made, rows, strict=True))
        except ConfigError as error:
            found.append(str(error))
    assert found[0] == found[1]


@settings(max_examples=100)
@given(st.lists(st.dictionaries(st.just("text"), VALUES | st.sampled_from(["nan", "NULL", ""]))))
def test_notes_on_texts_are_those_of_each_row_by_itself(rows):
    absent = sum("text" not in row for row in rows)
    counts = Counter(t for row in rows if isinstance(t := row.get("text"), str) and t in class_names.MISSING)
    said = list(class_names.text_notes(rows, ["text"]))
    assert [line.split()[0] for line in said] == [f"{n:,}" for n in (absent, counts.total()) if n]
    assert not counts or said[-1].endswith(class_names.counts_sentence(counts))


@given(st.lists(st.integers(0, 3) | st.none()))
def test_examples_are_counted_by_their_rows(numbers):
    """Features of no row are examples of their own."""
    features = [{} if number is None else {"row": number} for number in numbers]
    assert count_examples(features) == len(set(numbers) - {None}) + numbers.count(None)


WINDOWS = st.lists(st.sampled_from([{"truncated": True}, {"truncated": False}, {}]), max_size=3)


@given(st.lists(WINDOWS))
def test_how_rows_fit_is_the_same_by_row_and_by_feature(rows):
    encoded = [[{**feature, "row": number} for feature in features] for number, features in enumerate(rows)]
    assert Fit.of_rows(encoded) == Fit.of(len(encoded), [feature for features in encoded for feature in features])


@pytest.mark.parametrize("low", [0, -100, 2**31 - 31, -(2**31)])
@given(st.lists(st.integers(0, 30), max_size=60), st.sampled_from([[], [-(2**31)], [0], [2**31 - 1]]))
def test_numbers_out_of_the_cache_are_those_that_went_in(low, numbers, far):
    values = [low + number for number in numbers] + far
    shared = token_cache._shared(torch.tensor(values, dtype=torch.int32))
    assert shared == values and set(map(type, shared)) <= {int}


def test_equal_numbers_out_of_the_cache_are_one_object():
    assert len(set(map(id, token_cache._shared(torch.tensor([1000, 1001] * 50, dtype=torch.int32))))) == 2


@settings(max_examples=40)
@given(ROWS, ROWS)
def test_rows_that_cannot_repeat_are_not_looked_at_and_none_that_does_is_missed(train, test):
    fields = ["text", "label"]
    parts = SimpleNamespace(columns=dict.fromkeys(fields), rows=train, left=range(len(train)), taken=[])
    found = {identity(row, fields) for row in SourceParts._that_may_repeat(parts, test)}
    others = {identity(row, fields) for row in test}
    assert found & others == {identity(row, fields) for row in train} & others


def test_a_row_of_another_text_is_not_looked_at():
    parts = SimpleNamespace(columns={"text": 0}, rows=[{"text": "a"}, {"text": "b"}], left=[0, 1], taken=[])
    assert [*SourceParts._that_may_repeat(parts, [{"text": "b"}])] == [{"text": "b"}]
    parts.rows = [{"text": date(2026, 1, 1)}, {"text": "b"}]  # a date repeats its text
    assert [*SourceParts._that_may_repeat(parts, [{"text": "2026-01-01"}])] == parts.rows[:1]


@given(st.text(st.characters(max_codepoint=127), max_size=6))
def test_ascii_names_have_the_normal_form_of_all_names(name):
    wanted = name
    for form in class_names._FORMS.values():
        wanted = form(wanted)
    wanted = " ".join(wanted.split()).casefold()
    number = class_names._number(wanted)
    assert class_names.normal_form(name) == (wanted if number is None else repr(number + 0.0))


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("keep_end", [False, True])
def test_rows_tokenized_together_have_the_features_of_each_by_itself(monkeypatch, pair, keep_end):
    task, tokenizer, drawn = (
        tasks.build("sequence-classification", "ab", keep_end=keep_end),
        word_tokenizer(False),
        random.Random(0),
    )
    rows = [{"text": " ".join(drawn.choices(WORDS, k=drawn.randint(1, 9))), "label": "ab"[i % 2]} for i in range(20)]
    if pair:
        rows = [{**row, "text_pair": " ".join(drawn.choices(WORDS, k=drawn.randint(1, 3)))} for row in rows]
    alone = BaseTask.encode_all(task, rows, tokenizer, 8)
    calls, encode = [], TextTask.encode
    monkeypatch.setattr(TextTask, "encode", lambda *of: calls.append(of) or encode(*of))
    assert task.encode_all(rows, tokenizer, 8) == alone
    cut = sum(features[0]["truncated"] for features in alone)
    assert len(calls) == cut and 0 < cut < 20  # those that are to be cut
    assert task.encode_all([], tokenizer, 8) == []


def test_an_error_among_many_rows_names_its_row(monkeypatch):
    rows = [{"text": f"{WORDS[0]} {WORDS[i]}", "label": "a" if i != 3 else "c"} for i in range(5)]
    with pytest.raises(ConfigError, match=rf"label 'c' is not among .* begins '{rows[3]['text']}'"):
        token_cache.encode(tasks.build("sequence-classification", "ab"), rows, word_tokenizer(False), 8)
