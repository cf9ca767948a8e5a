"""The part of the config that says which rows are tested and validated on, and which rows each client has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_cli.config.schema.section import PartSize, Section


class HoldoutConfig(Section):
    """Test and validation parts of task groups."""

    test: PartSize | None = Field(
        None,
        description="The share (below 1) or the number of a source's rows that are held out to test on, where the "
        "source has no test part and the group no `test_fraction`; without it, a share of 0.2.",
        examples=[0.1],
    )
    validation: PartSize | None = Field(
        None,
        description="The share (below 1) or the number of a source's rows that are held out to validate on: the best "
        "round is chosen on them, and training may end by them. They are taken from the rows to train on, so that the "
        "test part stays as it is. A group with a validation part of its own (`validation_files`, `validation_split`) "
        "keeps that; without either, the best round is chosen on the test part.",
        examples=[0.1, 200],
    )
    duplicates: Literal["drop", "keep", "error"] | None = Field(
        None,
        description="What becomes of test rows that repeat a training row, and of validation rows that repeat a "
        "training or test row. Without it they are dropped from a part that is held out, and kept in a part of the "
        "source's own (`test_files`, `test_split`, a corpus's, `validation_files`, `validation_split`); both are "
        "counted.",
        examples=["drop"],
    )


class PartitionConfig(Section):
    """How a task group's training examples are dealt out to its clients."""

    scheme: Literal["iid", "dirichlet-label", "dirichlet-quantity", "column", "explicit"] = Field(
        "iid",
        description="How examples are dealt out: at random; with skewed shares of labels, or of quantity, drawn from a "
        "Dirichlet distribution; by the values of a column; or by the row numbers under `shards`.",
    )
    alpha: float = Field(0.5, gt=0, description="Concentration of the Dirichlet distribution; smaller is more skewed.")
    column: str | None = Field(
        None,
        description="With `scheme: column`: rows that share this column's value stay on one client, on the client of "
        "that name where values are names of clients.",
        examples=["site"],
    )
    unmatched: Literal["error", "deal", "drop"] = Field(
        "error",
        description="What becomes of values of the column that are no client's name, where others are: an error; deal "
        "them by size (to clients without a value of their own, where there are any); or drop their rows.",
    )
    shards: dict[str, list[int | str]] | None = Field(
        None,
        description="With `scheme: explicit`: by client, row numbers or ranges, counted from 0 over the rows of the "
        "source, whatever is held out.",
        examples=[{"phone-1": ["0-99", 120]}],
    )
    min_examples: int = Field(
        2,
        ge=1,
        description="A partition that leaves a client fewer examples than this is an error; its local test part "
        "counts.",
        json_schema_extra={"unit": "examples"},
    )
    local_test: float = Field(
        0.1, ge=0, lt=1, description="The share of each client's examples that is kept as its local test part."
    )
