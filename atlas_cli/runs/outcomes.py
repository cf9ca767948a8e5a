"""What a trained model made of every example of a part of the data: what intervals and paired tests are computed from.

``evaluation/<name>.json`` in a run directory holds one; ``atlas evaluate`` writes it and ``atlas compare`` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationError

from atlas_cli.errors import ResourceError
from atlas_cli.printable import listed
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.record import Count, Record
from atlas_cli.runs.schemas import Figures, Sha256
from atlas_cli.statistics import Ends, Figure, Indices, bootstrap, correlation, macro_f1, matthews, ratio, wilson
from atlas_cli.storage.strict_json import strict_json

FOLDER = "evaluation"


class Terms(Record):
    """What a figure is summed up from: the sum of ``values`` by the sum of ``weights``."""

    values: list[float] = Field(description="A number for every example.")
    weights: list[float] | None = Field(
        default=None, description="Of every example, what it counts, such as its label tokens; null: 1 each."
    )
    then: Literal["exp", "sqrt"] | None = Field(
        default=None, description="What the figure is of this quotient: `exp` of a perplexity, `sqrt` of an rmse."
    )


class Outcomes(Record):
    """A file in evaluation/."""

    task_group: str = Field(description="Name of the task group.")
    client: str | None = Field(description="Whose model it is; null: that of the group.")
    part: str = Field(description="What was scored: `test`, `validation`, `local`, or a file.")
    round: Count = Field(description="The round that the model is of.")
    rows_sha256: Sha256 = Field(
        description="Hash of the rows that were scored, in their order; of the test part the manifest's `test_sha256`."
    )
    metric: str = Field(description="Name of the primary metric.")
    better: dict[str, Literal["higher", "lower"]] = Field(description="By figure, which values are better.")
    figures: Figures = Field(description="The figures over all examples.")
    examples: Count = Field(description="How many examples were scored.")
    labels: list[str] | list[float] | None = Field(
        description="Where an example has one class or one number: its label; else null."
    )
    predicted: list[str] | list[float] | None = Field(description="What the model said, as `labels`.")
    terms: dict[str, Terms] = Field(description="By figure, what it is summed up from, for those that are.")

    def figure(self, name: str) -> Figure | None:
        """A figure as a function of examples; None where these files do not say what it is computed from.

        Over all examples it is what ``figures`` says, to rounding, or it is another figure of that name.
        """
        made = self._figure(name)
        said = self.figures.get(name)
        if (
            made is None
            or said is None
            or not math.isclose(made(_all(self.examples)), said, rel_tol=1e-5, abs_tol=1e-6)
        ):
            return None
        return made

    def interval(self, name: str, seed: int = 0) -> Ends | None:
        """Of 95 %: Wilson's where a figure is a share of examples, else of resamples; None as ``figure``."""
        figure = self.figure(name)
        if figure is None:
            return None
        right = self.right_of(name)
        return bootstrap(figure, self.examples, seed) if right is None else wilson(sum(right) / len(right), len(right))

    def right_of(self, name: str) -> list[bool] | None:
        """Of a figure that is the share of examples that are right, which those are; None for other figures."""
        terms = self.terms.get(name)
        if terms is None or terms.then is not None or not set(terms.values) <= {0.0, 1.0}:
            return None
        if terms.weights is not None and set(terms.weights) != {1.0}:
            return None
        return [value == 1.0 for value in terms.values]

    def _figure(self, name: str) -> Figure | None:
        if (terms := self.terms.get(name)) is not None:
            quotient = ratio(terms.values, terms.weights)
            after = {"exp": math.exp, "sqrt": math.sqrt, None: float}[terms.then]
            return lambda indices: after(quotient(indices))
        if self.labels is None or self.predicted is None:
            return None
        if (of_classes := {"macro_f1": macro_f1, "matthews": matthews}.get(name)) is not None:
            return of_classes([str(each) for each in self.labels], [str(each) for each in self.predicted])
        numbers = all(isinstance(each, float) for each in (*self.labels, *self.predicted))
        if name in ("pearson", "spearman") and numbers:
            return correlation(self.labels, self.predicted, ranked=name == "spearman")
        return None


def write_outcomes(run: RunDirectory, name: str, outcomes: Outcomes) -> None:
    """Write ``evaluation/<name>.json``, in place of what was there."""
    run.write_text(f"{FOLDER}/{name}.json", strict_json(outcomes.model_dump()))


def read_outcomes(run: RunDirectory) -> Iterable[Outcomes]:
    """All that a run has, in the order of their files' names.

    Raises:
        ResourceError: one that is damaged, of another version of atlas, or whose lists are not of all examples.
    """
    again = f"remove it, and run atlas evaluate {run.path} again"
    for path in sorted((run.path / FOLDER).glob("*.json")):
        try:
            found = Outcomes.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ResourceError(f"{path} is {_wrong(error)}; {again}") from error
        each = [found.labels, found.predicted]
        each += [part for terms in found.terms.values() for part in (terms.values, terms.weights)]
        if any(values is not None and len(values) != found.examples for values in each):
            what = f"a list is not of all {found.examples} examples"
            raise ResourceError(f"{path} is damaged: {what}; {again}")
        yield found


def _wrong(error: OSError | ValidationError) -> str:
    """Whether a file is of another version of atlas, which has other keys, or damaged."""
    keys: dict[str, list[str]] = {"missing": [], "extra_forbidden": []}
    for found in error.errors() if isinstance(error, ValidationError) else ():
        if found["type"] not in keys:
            return "damaged"
        keys[found["type"]].append(str(found["loc"][-1]))
    ways = [f"{way} {listed(names)}" for way, names in zip(("lacks", "has"), keys.values(), strict=True) if names]
    return f"of another version of atlas (it {' and '.join(ways)})" if ways else "damaged"


def _all(examples: int) -> Indices:
    import numpy as np

    return np.arange(examples)
