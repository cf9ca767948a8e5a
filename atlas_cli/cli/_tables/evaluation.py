"""What ``atlas evaluate`` shows of one model on one part: tables, and the record of ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.inference.recorded import Comparison
from atlas_cli.inference.scored_parts import ScoredPart
from atlas_cli.inference.scoring import Scores
from atlas_cli.reports.fitted import Column, fitted_table
from atlas_cli.reports.page.intervals import in_words
from atlas_cli.reports.page.records import counted
from atlas_cli.statistics import RESAMPLES, Ends
from atlas_cli.tasks.contract import ClassCounts
from atlas_cli.units import format_bytes_mb, format_number

MOST_CLASSES = 12  # in a table of all pairs


@dataclass(frozen=True)
class Evaluation:
    """One model on one part.

    Attributes:
        intervals: of 95 %, by figure.
        recorded: beside what the run recorded of it; None where it did not.
        merged: beside the same model as one piece; None where that was not asked for.
        files: what was written; ``unwritten``: why nothing was.
    """

    loaded: LoadedModel
    part: ScoredPart
    scores: Scores
    intervals: Mapping[str, Ends | None]
    recorded: Comparison | None
    merged: Comparison | None
    files: Sequence[Path]
    unwritten: str | None = None

    @property
    def title(self) -> str:
        """Whose model it is, of which round, and on what."""
        outcomes = self.scores.outcomes
        part = f"its {outcomes.part} part" if self.part.own else outcomes.part
        return f"{self.loaded.owner}, round {outcomes.round}, on {part}: {counted(outcomes.examples, 'example')}"

    @property
    def confusion(self) -> list[list[int]] | None:
        """How often each class was predicted as each."""
        return self.scores.confusion(self.loaded.task.classes)

    def tables(self, width: int) -> Iterator[Table]:
        """Figures, figures by class, and which class was taken for which."""
        yield self._figures(width)
        if self.scores.by_class:
            yield _by_class(self.scores.by_class, width)
        counts, classes = self.confusion, self.loaded.task.classes
        if counts is not None and len(classes) <= MOST_CLASSES:
            columns = [Column("class, and predicted as", classes, folds=True)]
            columns += [Column(name, [f"{row[i]:,}" for row in counts], right=True) for i, name in enumerate(classes)]
            yield fitted_table(columns, width)

    def _figures(self, width: int) -> Table:
        figures = self.scores.outcomes.figures
        columns = [
            Column("figure", [*figures]),
            Column("value", [format_number(value) for value in figures.values()], right=True),
            Column("95 % interval", [in_words(self.intervals[name]) for name in figures], right=True),
        ]
        return fitted_table(columns, width)

    def notes(self) -> Iterator[str]:
        """How the figures came about, a line each."""
        yield from self.part.notes
        split = self.loaded.config.mode == "split-federated"
        if self.recorded is not None:
            yield self.recorded.sentence()
        elif self.part.own:
            yield "the run recorded no figures of this model on this part"
        if self.merged is not None:
            quiet = " and without the noise at the cut" if self.loaded.noise_at_the_cut else ""
            yield f"merged into one piece{quiet}: {self.merged.sentence()}"
        if (changed := self.loaded.changed_at_the_cut) is not None:
            yield f"{changed}, as in its own evaluations"
        if split:
            each = self.scores.bytes_up / self.scores.outcomes.examples
            sent = format_bytes_mb(self.scores.bytes_up)
            yield f"cut after layer {self.loaded.cut}: {sent} of activations cross it, {each:,.0f} bytes an example"
        yield f"intervals: Wilson's of shares of examples, else from {RESAMPLES:,} resamples of whole examples"
        if lacking := [name for name, ends in self.intervals.items() if ends is None]:
            yield f"no interval of {', '.join(lacking)}: these examples do not say how far it would vary"
        if self.unwritten is not None:
            yield self.unwritten
        if self.files:
            yield f"wrote {', '.join(map(str, self.files))}"

    def record(self) -> dict[str, Any]:
        """For ``--json``."""
        outcomes, counts = self.scores.outcomes, self.confusion
        ends = {name: self.intervals[name] or (None, None) for name in outcomes.figures}
        return {
            "task_group": outcomes.task_group,
            "client": outcomes.client,
            "part": outcomes.part,
            "round": outcomes.round,
            "examples": outcomes.examples,
            "metric": outcomes.metric,
            "figures": {
                name: {"value": value, "low": ends[name][0], "high": ends[name][1]}
                for name, value in outcomes.figures.items()
            },
            "by_class": {name: {**found, **_rates(found)} for name, found in self.scores.by_class.items()},
            "confusion": None if counts is None else {"classes": self.loaded.task.classes, "counts": counts},
            "recorded": None if self.recorded is None else asdict(self.recorded),
            "merged": None if self.merged is None else asdict(self.merged),
            "bytes_up": self.scores.bytes_up if self.loaded.config.mode == "split-federated" else None,
            "files": [str(path) for path in self.files],
            "notes": [*self.part.notes, *([] if self.unwritten is None else [self.unwritten])],
        }


def _by_class(found: Mapping[str, ClassCounts], width: int) -> Table:
    rates = [_rates(counts) for counts in found.values()]
    columns = [Column("class", [*found], folds=True)]
    columns += [Column(name, [format_number(each[name]) for each in rates], right=True) for name in rates[0]]
    columns.append(Column("examples", [f"{counts['labels']:,}" for counts in found.values()], right=True))
    columns.append(Column("predicted", [f"{counts['predicted']:,}" for counts in found.values()], right=True, spare=1))
    return fitted_table(columns, width)


def _rates(counts: ClassCounts) -> dict[str, float | None]:
    """Precision, recall and F1; None where nothing was predicted, or nothing is of the class."""
    right, labels, predicted = counts["right"], counts["labels"], counts["predicted"]
    return {
        "precision": right / predicted if predicted else None,
        "recall": right / labels if labels else None,
        "f1": 2 * right / (labels + predicted),
    }
