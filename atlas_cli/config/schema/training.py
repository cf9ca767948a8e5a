"""The part of the config that says how rounds are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section, Share, quantity
from atlas_cli.units import parse_time


class OptimizerConfig(Section):
    """Optimizer of one side."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: list[float] = Field([0.9, 0.999], min_length=2, max_length=2)
    momentum: float = Field(0.0, ge=0, lt=1)


class ScheduleConfig(Section):
    """Learning rate over all steps of the run."""

    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps")


class TrainingConfig(Section):
    """The rounds."""

    rounds: int = Field(10, ge=1)
    local_steps: int = Field(8, ge=1)
    batch_size: int = Field(8, ge=1)
    max_length: int = Field(
        128, ge=2, description="tokens of an example; on_truncated says what becomes of longer ones"
    )
    on_truncated: Literal["cut", "keep-end", "drop", "error"] = Field(
        "cut",
        description="an example of more tokens than max_length loses its end (and is left out where nothing to learn "
        "is left), or its start, so that the response of an instruction stays; is left out; or is an error; counted",
    )
    cohort: Share = Field(1.0, description="share of each group's clients in a round, at least one")
    server_update: Literal["pooled", "sequential", "per-client"] = "pooled"
    labels: Literal["server", "client"] = Field(
        "server", description="client: head and labels stay on the client (U-shaped)"
    )
    client_optimizer: OptimizerConfig = OptimizerConfig()
    server_optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    max_grad_norm: float | None = Field(1.0, gt=0)
    autocast: Literal["off", "bfloat16"] = "off"
    on_nonfinite: Literal["stop", "drop-client"] = Field(
        "stop",
        description="a loss, activation, gradient or update that is not finite ends the run with exit code 4, or "
        "drops its client for the round",
    )
    deadline: Annotated[str, quantity(parse_time)] | None = Field(
        None,
        description="virtual time of a round, e.g. 60 s: a client whose own computing and transfers take longer is "
        "dropped; every client needs a device",
    )
    min_clients: int = Field(
        1, ge=1, description="a round that fewer clients of the cohort finish does not count and ends the run: exit 5"
    )
