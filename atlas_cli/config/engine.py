"""The part of the config that says how the machine computes; what is computed stays the same, to rounding."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atlas_cli.config.section import Section, quantity
from atlas_cli.config.units import parse_bytes


class EngineConfig(Section):
    """What this machine spends to be faster."""

    prefix_cache: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="memory for the outputs of blocks below a client's lowest adapter, computed once per text, e.g. "
        "512 MiB; what does not fit goes to a temporary folder under output.dir; null: computed anew every step",
    )
    compile: bool = Field(
        False,
        description="torch.compile the parts of blocks that no adapter touches: a minute or more before the first "
        "step, and results differ by rounding",
    )
