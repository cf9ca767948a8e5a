"""Predictions of a trained model for rows without labels, one after the other in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from atlas_cli.data.collate import WINDOW, collate
from atlas_cli.data.read import own_column
from atlas_cli.data.task_fields import with_fields
from atlas_cli.errors import ConfigError, NonFiniteError
from atlas_cli.federation.parties.evaluation import Evaluator, Pass
from atlas_cli.inference.input_rows import InputRow, missing_column
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.printable import listed
from atlas_cli.reports.page.records import counted
from atlas_cli.tasks.contract import Feature, Prediction

CLASH = "predicted_"


@dataclass(frozen=True)
class Columns:
    """The columns of the rows: those of the fields that the model reads, and all that the first row has."""

    fields: dict[str, str]
    present: frozenset[str]


def wanted_columns(loaded: LoadedModel) -> dict[str, str]:
    """By field that the model reads, the column that is configured or has its name; those of labels are left out."""
    task, data = loaded.task, loaded.config.task_groups[loaded.owner.group].data
    fields = [name for name in (*task.fields, *task.optional_fields) if name not in task.label_fields]
    configured = {name: getattr(data, name, None) for name in fields}
    return {name: said if isinstance(said, str) else name for name, said in configured.items()}


def columns_of(loaded: LoadedModel, row: InputRow, lines: bool) -> Columns:
    """Which columns of the first row are read; lines of text are the only field, where there is one.

    Raises:
        ConfigError: one that the model needs is not there.
    """
    task, present = loaded.task, list(row.row)
    needed = [name for name in task.fields if name not in task.label_fields]
    if lines and len(needed) > 1:
        raise ConfigError(
            f"lines of text are one column, and the model reads {', '.join(needed)}; give CSV or JSONL", key="--input"
        )
    if lines:
        return Columns({needed[0]: "text"}, frozenset(present))
    found = {}
    for name, wanted in wanted_columns(loaded).items():
        column = wanted if wanted in present else own_column(type(task), name, present)
        if column in present:
            found[name] = column
        elif name in needed or wanted != name:  # an optional one that is configured was trained on
            error = missing_column(name, wanted, present, row.place)
            if task.causal_only:
                error.add_note("atlas generate writes a response")
            raise error
    return Columns(found, frozenset(present))


class Predictor:
    """Predicts rows in windows of some batches, in which those of like length are computed together.

    Attributes:
        rows: how many were predicted; of these ``cut`` lack something, and ``bare`` are without a prediction.
        renamed: what of the predictions is in a column of another name, as rows have one of its own name.
    """

    def __init__(self, loaded: LoadedModel, columns: Columns, batch_size: int | None = None) -> None:
        self.loaded, self.columns = loaded, columns
        self.evaluator: Evaluator = loaded.evaluator(batch_size)
        self.passes = self.rows = self.cut = self.bare = 0
        self.renamed: dict[str, str] = {}

    def __call__(self, rows: Iterable[InputRow]) -> Iterator[dict[str, Any]]:
        """Each row as it was given, and what the model says of it.

        Raises:
            ConfigError: a row that the model cannot read, with file and line.
        """
        each = iter(rows)
        with self.evaluator.passes(self.loaded.model) as logits_of:
            while window := list(islice(each, WINDOW * self.evaluator.batch_size)):
                yield from self._window(window, logits_of)

    @torch.no_grad()
    def _window(self, window: Sequence[InputRow], logits_of: Pass) -> list[dict[str, Any]]:
        task, features = self.loaded.task, list[Feature]()
        for number, row in enumerate(window):
            encoded = self._encoded(row)
            if (replacement := self.loaded.replacement) is not None:
                encoded = replacement.replaced(encoded, self.loaded.config.seed, "prediction", self.rows + number)
            features += [Feature(**{**feature, "row": number}) for feature in encoded]
        said: dict[int, dict[int, Prediction]] = {}
        for numbers in self.evaluator.batches(features, self.loaded.model):
            batch = collate(task, [features[i] for i in numbers], self.evaluator.pad)
            logits, finite = logits_of(batch, self.passes)
            if not finite:
                places = listed(window[features[i]["row"]].place for i in numbers)
                raise NonFiniteError(f"the model gives values that are not finite, for {places}; it has diverged")
            self.passes += 1
            for i, prediction in zip(numbers, task.predictions(logits, batch.features), strict=True):
                said.setdefault(features[i]["row"], {})[i] = prediction
        self.rows += len(window)
        self.cut += len({feature["row"] for feature in features if feature.get("truncated")})
        return [self._written(row, said.get(number, {})) for number, row in enumerate(window)]

    def _encoded(self, given: InputRow) -> list[Feature]:
        task, config = self.loaded.task, self.loaded.config
        columns = self.columns.fields
        try:
            row = with_fields(given.row, columns, type(task), given.place, "--input")
        except ConfigError as error:  # its message begins with the place
            raise ConfigError(error.message) from None
        try:
            row = dict(task.with_blank_labels(row))
            task.check(row)
            features = task.encode(row, self.loaded.tokenizer, config.training.max_length)
        except ConfigError as error:
            raise ConfigError(error.message, where=given.place) from None
        if config.training.on_truncated == "error" and any(feature.get("truncated") for feature in features):
            raise ConfigError(
                f"longer than training.max_length {config.training.max_length}, and training.on_truncated is error",
                where=given.place,
            )
        return features

    def _written(self, given: InputRow, windows: dict[int, Prediction]) -> dict[str, Any]:
        task = self.loaded.task
        if windows:
            joined = task.joined_predictions([windows[i] for i in sorted(windows)])
            fields = {name: given.row[column] for name, column in self.columns.fields.items() if column in given.row}
            found = task.placed_prediction(joined, fields)
        else:
            self.bare += 1
            found = dict.fromkeys(task.prediction_fields)
        return {**given.row, **{self._column(name, given): value for name, value in found.items()}}

    def _column(self, name: str, given: InputRow) -> str:
        """The column of what the model predicts, which is none of the row's."""
        column = f"{CLASH}{name}" if name in self.columns.present else name
        if column in given.row:
            raise ConfigError(
                f"has a column {column!r}, which the first row lacks, and in which predictions go; rename it, or give "
                "the first row one",
                where=given.place,
            )
        if column != name:
            self.renamed[name] = column
        return column

    def notes(self) -> Iterator[str]:
        """What of the rows is not in their predictions."""
        task, training = self.loaded.task, self.loaded.config.training
        if self.cut:
            rule = f"the {'end' if training.on_truncated == 'keep-end' else 'start'} was read"
            longer = f"longer than training.max_length {training.max_length}: {rule}"
            yield f"{counted(self.cut, 'row is', 'rows are')} {longer}"
        if self.bare:
            yield f"{counted(self.bare, 'row is', 'rows are')} too short: nothing is predicted for them"
        if self.renamed:
            pairs = listed(f"{name} is in {column}" for name, column in self.renamed.items())
            yield f"the rows have columns of these names, so of the predictions {pairs}"
        if task.forms.get("label") in ("class", "set") and "scores" in task.prediction_fields:
            yield f"scores are in the order of classes: {listed(task.classes, most=20)}"
