"""The part of the config that says which messages are kept for an audit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlas_cli.config.schema.section import Name, Section, quantity
from atlas_cli.units import parse_bytes


class RecordConfig(Section):
    """Which messages are kept, as they cross the wire, in the run directory under messages/."""

    rounds: list[Annotated[int, Field(ge=0)]] = Field(
        [1],
        min_length=1,
        description="The rounds whose messages are kept; what the server delivered just before them is kept, too.",
    )
    clients: Literal["all"] | list[Name] = Field(
        "all", description="The clients whose messages are kept, in both directions.", examples=[["phone-1"]]
    )
    limit: Annotated[str, quantity(parse_bytes)] = Field(
        "1 GiB",
        description="Recording ends before the message that would exceed this size, and the manifest says so.",
    )


class AuditConfig(Section):
    """What ``atlas audit`` needs of a run; nothing of it changes the training."""

    record: RecordConfig = RecordConfig()
