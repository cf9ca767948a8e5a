"""The prompts that a trained model goes on from: one text, or the rows of a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_cli.config.schema.task_groups import DataConfig
from atlas_cli.data.rows import Rows
from atlas_cli.data.sources import read_source
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.inference.predictions import CLASH
from atlas_cli.models.frozen.rotary import positions_to_write
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean
from atlas_cli.tasks.contract import BaseTask, Row

SPACE = 64  # new tokens where nobody says how many, as far as the model has positions for them


@dataclass(frozen=True)
class Prompts:
    """Prompts in the order in which they were given.

    Attributes:
        rows: as they were read, with all their columns.
        tokens: of each, in the form that the task trains with.
        notes: how they were read.
    """

    rows: Rows
    tokens: list[list[int]]
    notes: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(map(len, self.tokens))

    def new_columns(self, names: Sequence[str]) -> dict[str, str]:
        """The columns of what is added to the rows, by name: another where rows have one of that name.

        Raises:
            ConfigError: rows have that one, too.
        """
        present = {column for row in self.rows for column in row}
        found = {name: f"{CLASH}{name}" if name in present else name for name in names}
        if taken := [column for name, column in found.items() if column != name and column in present]:
            raise ConfigError(f"rows have a column {taken[0]!r}, in which new text goes; rename it", key="--input")
        return found


def given_prompts(loaded: LoadedModel, texts: Sequence[str]) -> Prompts:
    """Texts as prompts.

    Raises:
        ConfigError: one gives no token.
    """
    rows: Rows = [dict(loaded.task.asking(text)) for text in texts]
    return Prompts(rows, [_tokens(loaded, row, "--prompt") for row in rows])


def prompts_of_file(loaded: LoadedModel, file: str) -> Prompts:
    """The rows of a file in any format that data may have, or for ``-`` the lines of standard input.

    A column is the one that the run's config names for the field, else that of a name that the task knows. A line of
    text is a prompt.

    Raises:
        ConfigError: a column or a value does not fit; names the row.
        ResourceError: there is no such file.
    """
    notes: tuple[str, ...] = ()
    if file == "-":
        rows: Rows = [{"text": line.rstrip("\r\n")} for line in sys.stdin if line.strip()]
        if not rows:
            raise ConfigError("standard input has no line", key="--input")
    else:
        try:
            source = read_source(DataConfig.model_validate({"files": file}), "--input")
        except ConfigError as error:
            raise ConfigError(error.message, key="--input") from None
        except ResourceError as error:
            raise ResourceError(str(error).replace("--input.files: ", "--input: ", 1)) from None
        rows, notes = source.train, source.notes
    columns = _columns(loaded, rows)
    tokens = [
        _tokens(loaded, _asked(loaded.task, row, columns), f"--input: row {number}")
        for number, row in enumerate(rows, start=1)
    ]
    return Prompts(rows, tokens, notes)


def _asked(task: BaseTask, row: Row, columns: Mapping[str, str]) -> Row:
    """A row under the task's own names; without columns of the task it is a line of text."""
    if not columns:
        return task.asking(row["text"])
    found = {field: row.get(column) for field, column in columns.items()}
    return {field: value for field, value in found.items() if value or field in task.prompt_fields}


def _columns(loaded: LoadedModel, rows: Rows) -> dict[str, str]:
    """The column of each field that a prompt may be made of; none where rows are lines of text."""
    task, data = loaded.task, loaded.config.task_groups[loaded.owner.group].data
    present = list(dict.fromkeys(column for row in rows for column in row))
    columns = {}
    for field in (*task.prompt_fields, *task.optional_fields):
        configured = getattr(data, field, None)
        named = [configured] if isinstance(configured, str) else []
        names = [*named, field, *task.other_names.get(field, ())]
        if found := next((name for name in names if name in present), None):
            columns[field] = found
        elif field in task.prompt_fields and present != ["text"]:
            hint = did_you_mean(names[0], present)
            more = "" if "expected" in hint else f" (columns: {listed(map(str, present), most=10)})"
            raise ConfigError(f"no column {names[0]!r}{hint}{more}", key="--input")
    return columns


def _tokens(loaded: LoadedModel, row: Row, place: str) -> list[int]:
    try:
        tokens = loaded.task.prompt(row, loaded.tokenizer)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}") from None
    if not tokens:
        raise ConfigError(f"{place}: the prompt gives no token; give some text to go on from")
    return tokens


def room(loaded: LoadedModel, prompts: Prompts, asked: int | None) -> int:
    """The most new tokens of a text: as many as were asked for, else ``SPACE`` or what the model has positions for.

    Raises:
        ConfigError: the model has too few positions for a prompt and these.
    """
    base = loaded.base
    positions, what = positions_to_write(base.config, base.family.positions(base.config))
    if positions is None:
        return SPACE if asked is None else asked
    left, number = positions - prompts.longest, [*map(len, prompts.tokens)].index(prompts.longest) + 1
    if left < (1 if asked is None else asked):
        which = "the prompt" if len(prompts.tokens) == 1 else f"prompt {number}"
        wanted = "a new token" if asked is None else f"{asked} new ones"
        remedy = f"give --max-new-tokens {left} at most, or shorten it" if left > 0 else "shorten it"
        raise ConfigError(
            f"{which} has {prompts.longest} tokens, and the model's {positions} {what} leave no room for {wanted};"
            f" {remedy}"
        )
    return min(SPACE, left) if asked is None else asked
