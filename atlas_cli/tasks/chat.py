"""Conversations: language modelling of all turns of the assistant, and of nothing else.

Column messages: a list of turns, `{"role": "user", "content": "..."}`, with roles system, user, assistant and tool;
ShareGPT's `{"from": "human", "value": "..."}` under conversations is read, too. The tokenizer's chat template renders
them. What it marks by `{% generation %}` is learned; without marks, the text by which the conversation up to a turn of
the assistant is longer than the prompt that the template makes of all turns before. A template that writes a turn
otherwise once others follow is refused. Without a template each turn is a line, and the end token follows on what the
assistant says. Turns after the last one of the assistant are left out. Metrics are those of causal-lm, over the tokens
of the assistant's turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean
from atlas_cli.tasks import _rows, instruction
from atlas_cli.tasks._turns import ASSISTANT, Turn, prompt_of
from atlas_cli.tasks.contract import Form, Row

_ROLES = ("system", "user", ASSISTANT, "tool")
_SHAREGPT = {"human": "user", "gpt": ASSISTANT}


class Task(instruction.Task):
    """Chat: column messages, a list of turns."""

    fields: ClassVar[tuple[str, ...]] = ("messages",)
    optional_fields: ClassVar[tuple[str, ...]] = ()
    other_names: ClassVar[Mapping[str, tuple[str, ...]]] = {"messages": ("conversations",)}
    forms: ClassVar[Mapping[str, Form]] = {"messages": "any"}
    prompt_fields: ClassVar[tuple[str, ...]] = ("messages",)

    @classmethod
    def check(cls, row: Row) -> None:
        """Turns must have a known role and text, and the assistant answers one of them."""
        _last_answer(_turns(row))

    def asking(self, text: str) -> Row:
        """A single turn of the user."""
        return {"messages": [{"role": "user", "content": text}]}

    def prompt(self, row: Row, tokenizer: Any) -> list[int]:
        """All turns, less the last one where it is the assistant's."""
        turns = _turns(row)
        return prompt_of(tokenizer, turns[:-1] if turns[-1]["role"] == ASSISTANT else turns)

    def reference(self, row: Row) -> str | None:
        """The last turn, where it is the assistant's."""
        last = _turns(row)[-1]
        return last["content"] if last["role"] == ASSISTANT else None

    def _asked(self, row: Row) -> list[Turn]:
        turns = _turns(row)
        return turns[: _last_answer(turns)]

    def _answer(self, row: Row) -> str:
        turns = _turns(row)
        return turns[_last_answer(turns)]["content"]


def _turns(row: Row) -> list[Turn]:
    """All turns.

    Raises:
        ConfigError: another form; says which turn.
    """
    value = _rows.field(row, "messages")
    if not isinstance(value, list):
        raise ConfigError(f"field 'messages' must be a list of turns, not {type(value).__name__}; use JSONL or Parquet")
    turns = [_turn(item, f"turn {number}") for number, item in enumerate(value, start=1)]
    if not turns or turns[0]["role"] == ASSISTANT:
        what = "the first turn is the assistant's, and answers nothing" if turns else "there is no turn"
        raise ConfigError(f"{what}; fix or drop the row")
    return turns


def _last_answer(turns: list[Turn]) -> int:
    """The place of the last turn of the assistant.

    Raises:
        ConfigError: there is none.
    """
    answers = [number for number, turn in enumerate(turns) if turn["role"] == ASSISTANT]
    if not answers:
        raise ConfigError("no turn is the assistant's; fix or drop the row")
    return answers[-1]


def _turn(item: Any, place: str) -> Turn:
    if not isinstance(item, dict):
        raise ConfigError(f'{place} is {type(item).__name__}, not {{"role": ..., "content": ...}}')
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    role = _SHAREGPT.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        hint = did_you_mean(role, _ROLES) if isinstance(role, str) else f"; expected one of: {', '.join(_ROLES)}"
        raise ConfigError(f"{place} has the role {role!r:.40}{hint}")
    if not isinstance(content, str) or not content.strip():
        raise ConfigError(f"{place} ({role}) has no text as content; fix it or drop the row")
    return {"role": role, "content": content}
