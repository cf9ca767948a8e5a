"""The turns of a conversation as tokens, and which of these the model is to learn: the assistant's, and no others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from atlas_cli.errors import ConfigError
from atlas_cli.tasks.contract import IGNORE

Turn = Mapping[str, str]
ASSISTANT = "assistant"
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # what a template writes around what the assistant says


def encode_turns(tokenizer: Any, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Token ids, and labels that are the same for the assistant's turns and -100 elsewhere.

    A chat template renders the conversation. Where it marks what the assistant says (``{% generation %}``), that is
    what is labelled; else the text by which the conversation up to a turn of the assistant is longer than the prompt
    that the template makes of all turns before. Without a template each turn is a line, and the end token follows on
    what the assistant says.

    Raises:
        ConfigError: a template that refuses the turns, or that writes a turn otherwise once others follow.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return _plain(tokenizer, turns)
    if isinstance(template, str) and _MARKS.search(template):
        return _marked(tokenizer, turns)
    whole = _render(tokenizer, turns)
    ids = _tokens(tokenizer, whole)
    labels = [IGNORE] * len(ids)
    for number, turn in enumerate(turns):
        if turn["role"] == ASSISTANT:
            before = _render(tokenizer, turns[:number], add_generation_prompt=True)
            after = _render(tokenizer, turns[: number + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise ConfigError(
                    f"the tokenizer's chat template writes turn {number + 1} (assistant), or what is before it,"
                    " otherwise where other turns follow, so that its tokens cannot be told from the others; use"
                    " a template that marks them with {% generation %}, or set model.tokenizer to another"
                )
            first, last = (_common(_tokens(tokenizer, part), ids) for part in (before, after))
            labels[first:last] = ids[first:last]
    return ids, labels


def _marked(tokenizer: Any, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    encoded = _render(tokenizer, turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids: list[int] = encoded["input_ids"]
    labels = [token if said else IGNORE for token, said in zip(ids, encoded["assistant_masks"], strict=True)]
    return ids, labels


def _render(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(list(turns), **{"tokenize": False, **options})
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ConfigError(f"the tokenizer's chat template refuses turns of {roles:.100}: {error}") from error


def _tokens(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def _plain(tokenizer: Any, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    before = ""
    for turn in turns:
        if turn["role"] != ASSISTANT:
            before += f"{turn['content']}\n"
            continue
        first = not ids  # what begins a text is there once
        asked, said = (_tokens(tokenizer, text, first) for text in (before, before + turn["content"]))
        said = with_end(said, tokenizer)
        start = _common(asked, said)
        ids, labels, before = [*ids, *said], [*labels, *[IGNORE] * start, *said[start:]], ""
    if before:
        asked = without_end(_tokens(tokenizer, before, not ids), tokenizer)
        ids, labels = [*ids, *asked], [*labels, *[IGNORE] * len(asked)]
    return ids, labels


def prompt_of(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """The tokens that an answer to turns follows, as ``encode_turns`` has them before it."""
    if not getattr(tokenizer, "chat_template", None):
        return _plain(tokenizer, turns)[0]
    return _tokens(tokenizer, _render(tokenizer, turns, add_generation_prompt=True))


def after_a_response(tokenizer: Any) -> tuple[list[int], list[str]]:
    """What the chat template puts after a response: a special token, or a string; neither without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return [], []
    turns = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}]
    before = _render(tokenizer, turns[:1], add_generation_prompt=True)
    after = _render(tokenizer, turns).removeprefix(before).partition("b")[2]
    first = _tokens(tokenizer, after)[:1]
    if set(first) <= set(tokenizer.all_special_ids):
        return first, []
    return [], [after.strip()] if after.strip() else []


def with_end(ids: list[int], tokenizer: Any) -> list[int]:
    """The tokens followed by the tokenizer's end token, if it has one and they do not end so already."""
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def without_end(ids: list[int], tokenizer: Any) -> list[int]:
    """The tokens of a text that goes on, of a tokenizer that may put its end token after every text."""
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def _common(part: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common start: a token that merges the end of one turn with the start of the next is the next's."""
    pairs = zip(part, ids, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(part), len(ids)))
