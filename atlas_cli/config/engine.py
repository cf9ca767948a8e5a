"""The part of the config that says how the machine computes; what is computed stays the same, to rounding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlas_cli.config.section import Section, quantity
from atlas_cli.config.units import parse_bytes


class EngineConfig(Section):
    """What this machine spends to be faster."""

    fuse: Literal["auto", "off"] = Field(
        "auto",
        description="auto: clients with the same split layer are computed together, their real tokens in one row; "
        "off: each by itself, padded",
    )
    prefix_cache: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="memory for the outputs of blocks below a client's lowest adapter, computed once per text, e.g. "
        "512 MiB; what does not fit goes to a temporary folder under output.dir; null: computed anew every step",
    )
    offload: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="memory for what clients own that take no part in a round, e.g. 1 GiB; what does not fit goes to a "
        "temporary folder under output.dir; null: all clients stay in memory",
    )
    compile: bool = Field(
        False,
        description="torch.compile the parts of blocks that no adapter touches: a minute or more before the first "
        "step, and results differ by rounding",
    )
