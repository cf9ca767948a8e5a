"""Rows of millions of characters: the same tokens as if all of the text were tokenized, and little of it is."""

import pytest
from transformers import PreTrainedTokenizerFast

from atlas_cli import tasks
from atlas_cli.tasks import _rows
from atlas_cli.tasks import token_classification as tokens

TEXT = "who is paris , the capital of france ? john lives in new york . " * 150  # 9,600 characters
ROWS = {
    "sequence-classification": {"text": TEXT, "label": "a"},
    "causal-lm": {"text": TEXT},
    "instruction": {"prompt": "who", "response": TEXT},
    "token-classification": {"tokens": TEXT.split(), "tags": ["a", "b"] * (len(TEXT.split()) // 2)},
}


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_a_long_row_gives_the_same_tokens_from_a_part_of_it(monkeypatch, bert, gpt, name, keep_end):
    seen = []
    call = PreTrainedTokenizerFast.__call__

    def counted(self, *texts, **options):
        seen.append(sum(map(len, texts)))
        return call(self, *texts, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    classifies = name.endswith("classification")
    task, tokenizer = tasks.build(name, "ab" if classifies else (), keep_end=keep_end), bert if classifies else gpt
    whole = task.encode(ROWS[name], tokenizer, 16)
    all_of_it = max(seen)
    seen.clear()
    monkeypatch.setattr(_rows, "_LONG_TEXT", 200)
    monkeypatch.setattr(tokens, "_MANY_WORDS", 20)
    assert task.encode(ROWS[name], tokenizer, 16) == whole and whole[0]["truncated"]
    assert 0 < max(seen) < all_of_it / 5


def test_a_text_of_few_tokens_is_read_whole(monkeypatch, bert):
    monkeypatch.setattr(_rows, "_LONG_TEXT", 100)
    text = " " * 5000 + "paris"
    assert _rows.enough(text, bert, 2, False) == text
