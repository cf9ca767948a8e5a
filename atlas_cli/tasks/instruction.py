"""Instruction following: language modelling of a response, given a prompt that is left out of the loss.

Columns prompt and response, or those of Alpaca: instruction, input (which may be empty, and follows the instruction
after a blank line) and output. With a chat template, the conversation is what the template renders; without, it is the
prompt, a new line, the response and the end token. Metrics are those of causal-lm, over response tokens only. Several
turns are `chat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from atlas_cli.tasks import _rows, causal_lm
from atlas_cli.tasks._turns import ASSISTANT, Turn, after_a_response, encode_turns, prompt_of
from atlas_cli.tasks.contract import Feature, Row


class Task(causal_lm.Task):
    """Instruction following: columns prompt and response."""

    fields: ClassVar[tuple[str, ...]] = ("prompt", "response")
    optional_fields: ClassVar[tuple[str, ...]] = ("input",)
    other_names: ClassVar[Mapping[str, tuple[str, ...]]] = {"prompt": ("instruction",), "response": ("output",)}
    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt",)

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature whose labels are what the assistant says; none where truncation leaves nothing of it.

        Raises:
            ConfigError: a field that is missing or does not fit, or a chat template that does not keep turns apart.
        """
        turns = [
            {**turn, "content": _rows.enough(turn["content"], tokenizer, max_length, self.keep_end)}
            for turn in [*self._asked(row), {"role": ASSISTANT, "content": self._answer(row)}]
        ]
        return self._features(*encode_turns(tokenizer, turns), max_length, tokenizer.bos_token_id)

    def prompt(self, row: Row, tokenizer: Any) -> list[int]:
        """The turns before the answer as ``encode`` puts them before it."""
        return prompt_of(tokenizer, self._asked(row))

    def ends(self, tokenizer: Any) -> tuple[list[int], list[str]]:
        """The end token, and what the chat template puts after a response."""
        tokens, strings = super().ends(tokenizer)
        more, text = after_a_response(tokenizer)
        return list(dict.fromkeys([*tokens, *more])), [*strings, *text]

    def reference(self, row: Row) -> str | None:
        """The response."""
        return self._answer(row)

    def _asked(self, row: Row) -> list[Turn]:
        """The turns that the last answer follows."""
        prompt = _rows.text(row, "prompt")
        if "input" in row:
            prompt += f"\n\n{_rows.text(row, 'input')}"
        return [{"role": "user", "content": prompt}]

    def _answer(self, row: Row) -> str:
        return _rows.text(row, "response")
