"""The part of the config that says which rows are tested on, and which rows each client has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section


class HoldoutConfig(Section):
    """Test parts of task groups."""

    duplicates: Literal["drop", "keep", "error"] | None = Field(
        None,
        description="test rows that repeat a training row; default: dropped from a part that is held out, kept in a "
        "test part of the source's own (test_files, test_split, a corpus's); both are counted",
    )


class PartitionConfig(Section):
    """How a task group's training examples are dealt out to its clients."""

    scheme: Literal["iid", "dirichlet-label", "dirichlet-quantity", "column", "explicit"] = "iid"
    alpha: float = Field(0.5, gt=0, description="Dirichlet concentration; smaller is more skewed")
    column: str | None = Field(
        None,
        description="rows that share this column stay on one client, the one of that name where values are names of "
        "clients (scheme: column)",
    )
    unmatched: Literal["error", "deal", "drop"] = Field(
        "error",
        description="values of the column that are no client's name, where others are: deal them by size (to clients "
        "without a value of their own, where there are any), or drop their rows",
    )
    shards: dict[str, list[int | str]] | None = Field(
        None,
        description="row numbers or ranges '0-99' by client (scheme: explicit): rows of the source counted from 0, "
        "whatever is held out",
    )
    min_examples: int = Field(
        2, ge=1, description="a partition that leaves a client fewer is an error; its local test part counts"
    )
    local_test: float = Field(
        0.1, ge=0, lt=1, description="share of each client's examples kept as its local test part"
    )
