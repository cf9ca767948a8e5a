"""The parts of the config that say which clients fail, and which updates are left out of a merge."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atlas_cli.config.schema.section import Section


class CrashConfig(Section):
    """Where a client fails: in a round (from 1), before a local step of it (from 0, as in messages)."""

    round: int = Field(ge=1, description="The round in which the client fails, from 1.", examples=[2])
    step: int = Field(0, ge=0, description="The local step before which it fails, from 0 as in messages.")


class FaultsConfig(Section):
    """Faults for experiments, a pure function of ``seed``, round and client; a client is named, or its template."""

    drop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The chance that a client of the cohort never answers in a round, drawn anew each round.",
        examples=[0.3],
    )
    slow: dict[str, Annotated[float, Field(ge=1)]] = Field(
        {},
        description="By client, a factor on its compute and link times on the virtual clock.",
        examples=[{"phone-1": 4.0}],
    )
    crash_at: dict[str, CrashConfig] = Field(
        {}, description="By client, the round and the local step in which it fails."
    )


class ScreenConfig(Section):
    """Updates that are left out of a merge although they are finite and of the right shapes."""

    max_norm_ratio: float | None = Field(
        None,
        gt=0,
        description="Leave out an update whose Frobenius norm is more than this many times the median of its group's "
        "cohort; `null` leaves out none.",
        examples=[3.0],
    )
