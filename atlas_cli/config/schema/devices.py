"""The part of the config that says what devices have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atlas_cli.config.schema.section import Section, quantity
from atlas_cli.units import parse_bytes, parse_compute, parse_power, parse_rate, parse_time


class TraceConfig(Section):
    """What changes over virtual time, read from a CSV file: the rate of a link, or when a device can be reached.

    A client that cannot be reached when a round begins has no part in it, and a transfer waits until its device can be.
    """

    trace: str = Field(
        description="A CSV file, looked for beside the config: a line of column names, `seconds` and the unit of the "
        "rates (of `available`: `seconds,available`), then rows of a time, from 0 on, and of what is so from then on.",
        examples=["data/traces/phone-uplink.csv"],
    )
    repeat_every: Annotated[str, quantity(parse_time)] | None = Field(
        None,
        description="The time after which it begins anew; without it, what the last row says holds for ever.",
        examples=["10 min"],
    )


class DeviceConfig(Section):
    """What a device has, each with its unit."""

    memory: Annotated[str, quantity(parse_bytes)] | None = Field(
        None, description="Memory that training may take.", examples=["2 GiB"]
    )
    compute: Annotated[str, quantity(parse_compute)] | None = Field(
        None, description="The rate at which it computes for long.", examples=["20 GFLOP/s"]
    )
    uplink: Annotated[str, quantity(parse_rate)] | TraceConfig | None = Field(
        None,
        description="The rate of its link to the server, or a trace of it, with the keys of `available`.",
        examples=["10 Mbit/s"],
    )
    downlink: Annotated[str, quantity(parse_rate)] | TraceConfig | None = Field(
        None,
        description="The rate of its link from the server, or a trace of it, with the keys of `available`.",
        examples=["50 Mbit/s"],
    )
    available: TraceConfig | None = Field(
        None,
        description="When it can be reached, as 1 and 0; without it, always.",
    )
    latency: Annotated[str, quantity(parse_time)] | None = Field(
        None, description="The time that a message takes besides its bytes, one way.", examples=["40 ms"]
    )
    watts: Annotated[str, quantity(parse_power)] | None = Field(
        None, description="The power that it draws while it works.", examples=["5 W"]
    )

    @property
    def traces(self) -> dict[str, TraceConfig]:
        """By figure, those that are a trace."""
        given = {name: getattr(self, name) for name in ("uplink", "downlink", "available")}
        return {name: each for name, each in given.items() if isinstance(each, TraceConfig)}
