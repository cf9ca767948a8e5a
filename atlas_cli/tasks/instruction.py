"""Instruction following: language modelling of a response, given a prompt that is left out of the loss.

With a chat template, the conversation is what the template renders; without, it is ``prompt``, a new line, ``response``
and the end token. Metrics are those of causal-lm, over response tokens only.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jinja2 import TemplateError

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows, causal_lm
from atlas_cli.tasks.contract import Feature, Row


class Task(causal_lm.Task):
    """Instruction following: columns prompt and response."""

    fields: ClassVar[tuple[str, ...]] = ("prompt", "response")
    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt",)

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature whose labels are the response; none where truncation leaves nothing of the response.

        Raises:
            ConfigError: a field that is missing or not a string, or a chat template that does not keep the two apart.
        """
        fields = (_rows.text(row, name) for name in self.fields)
        prompt, response = (_rows.enough(text, tokenizer, max_length, self.keep_end) for text in fields)
        if getattr(tokenizer, "chat_template", None):
            before, whole = _render(tokenizer, prompt, response)
            prompt_ids, ids = (
                tokenizer(t, add_special_tokens=False, verbose=False)["input_ids"] for t in (before, whole)
            )
        else:
            before = f"{prompt}\n"
            prompt_ids, ids = (tokenizer(t, verbose=False)["input_ids"] for t in (before, before + response))
            ids = causal_lm.with_end(ids, tokenizer)
        return self._features(ids, _common(prompt_ids, ids), max_length, tokenizer.bos_token_id)

    def prompt(self, row: Row, tokenizer: Any) -> list[int]:
        """The prompt as ``encode`` puts it before the response."""
        prompt = _rows.text(row, "prompt")
        if getattr(tokenizer, "chat_template", None):
            before, _ = _render(tokenizer, prompt, "")
            return tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"]
        return causal_lm.without_end(tokenizer(f"{prompt}\n", verbose=False)["input_ids"], tokenizer)

    def ends(self, tokenizer: Any) -> tuple[list[int], list[str]]:
        """The end token, and what the chat template puts after a response."""
        tokens, strings = super().ends(tokenizer)
        if getattr(tokenizer, "chat_template", None):
            before, whole = _render(tokenizer, "a", "b")
            after = whole.removeprefix(before).partition("b")[2]
            first = tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"][:1]
            if set(first) <= set(tokenizer.all_special_ids):
                tokens = list(dict.fromkeys([*tokens, *first]))
            elif after.strip():
                strings = [after.strip()]
        return tokens, strings

    def reference(self, row: Row) -> str | None:
        """The response."""
        return _rows.text(row, "response")


def _render(tokenizer: Any, prompt: str, response: str) -> tuple[str, str]:
    """What the model is given, and that plus the response, by the tokenizer's chat template."""
    question = {"role": "user", "content": prompt}
    answer = {"role": "assistant", "content": response}
    try:
        before = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([question, answer], tokenize=False)
    except TemplateError as error:
        raise ConfigError(f"the tokenizer's chat template refuses a user and an assistant turn: {error}") from error
    if not whole.startswith(before):
        raise ConfigError(
            "the tokenizer's chat template does not put the prompt before the response; set model.tokenizer to another"
        )
    return before, whole


def _common(prompt_ids: list[int], ids: list[int]) -> int:
    """Length of the common start: a token that merges the prompt's end with the response's start counts as response."""
    pairs = zip(prompt_ids, ids, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt_ids), len(ids)))
