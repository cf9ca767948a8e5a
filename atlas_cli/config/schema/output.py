"""Config sections on what a run writes."""

from __future__ import annotations

from pydantic import Field

from atlas_cli.config.schema.section import Section


class CheckpointsConfig(Section):
    """The states from which a stopped run goes on."""

    every: int = Field(
        1,
        ge=1,
        description="Write one every this many rounds. The last round is written, too, and the newest whole one on an "
        "interrupt or error.",
        json_schema_extra={"unit": "rounds"},
    )
    keep: int = Field(2, ge=1, description="How many of the newest are kept.")


class OutputConfig(Section):
    """Where run directories are made."""

    dir: str = Field("runs", description="The folder in which each run makes its directory.")
