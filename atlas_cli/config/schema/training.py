"""The part of the config that says how rounds are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section, Share, quantity
from atlas_cli.units import parse_time


class OptimizerConfig(Section):
    """The optimizer of one side, clients or server."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="The rule of a step.")
    lr: float = Field(1e-3, gt=0, description="The learning rate, before the schedule.")
    weight_decay: float = Field(
        0.0, ge=0, description="How much of each parameter a step takes off, times the learning rate."
    )
    betas: list[float] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="Decay rates of AdamW's two moments."
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of SGD.")


class ScheduleConfig(Section):
    """How the learning rate goes over all steps of the run."""

    name: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the learning rate goes down to 0 after the warm-up; `constant` keeps it."
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="The share of all steps in which the learning rate rises.")


class DriftConfig(Section):
    """What keeps clients whose data differ from drifting apart in their local steps."""

    name: Literal["none", "fedprox", "scaffold"] = Field(
        "none",
        description="How they are kept together. `fedprox` adds a penalty on the distance from what a client was "
        "delivered to the loss of its local steps. `scaffold` corrects their gradients by those that clients sent of "
        "the round's first step; `aggregation.method: scaffold` keeps variates of earlier rounds (the paper's "
        "option II), with averages of factors.",
    )
    mu: float | None = Field(
        None,
        ge=0,
        description="The strength of `fedprox`: mu / 2 times the squared distance is added. Without it 0.01.",
        examples=[0.01],
    )


class AuxiliaryConfig(Section):
    """How clients that learn `auxiliary` let the server learn."""

    every: int = Field(
        1,
        ge=1,
        description="Activations go up in every so many-th local step of a round, from its first on, so at least once "
        "a round; the client learns in each.",
        json_schema_extra={"unit": "steps"},
    )


class ZerothOrderConfig(Section):
    """How clients that learn `zeroth-order` estimate the gradient of their adapters."""

    probes: int = Field(
        5,
        ge=1,
        description="Forward passes with perturbed adapters in a step. The squared error of the estimate goes down in "
        "proportion.",
        json_schema_extra={"unit": "passes"},
    )
    smoothing: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="The size of a perturbation: each number is normal with this deviation. At least 1e-6: smaller "
        "ones are lost in float32's rounding of the activations; 1e-4 to 1e-2 is usual.",
    )


class EarlyStoppingConfig(Section):
    """Training ends before its last round when no task group gets better on its validation part."""

    patience: int = Field(
        3,
        ge=1,
        description="Training ends after so many evaluations (`evaluation.every` rounds each) in which no task group "
        "has improved on its own best by its primary metric; as long as one group improves, all go on.",
        json_schema_extra={"unit": "evaluations"},
    )
    min_delta: float = Field(
        0.0,
        ge=0,
        description="A group has improved where it is better by more than this than when it last improved, in the unit "
        "of its own metric.",
        examples=[0.001],
    )


class AsynchronyConfig(Section):
    """Merging as soon as enough updates have come, whoever they are of (FedBuff, Nguyen et al. 2022)."""

    buffer: int = Field(
        ge=1,
        description="How many updates of a task group are merged at a time. A client whose update waits for the merge "
        "is idle, so with as many as train at a time rounds are synchronous, whatever their devices.",
        examples=[4],
        json_schema_extra={"unit": "updates"},
    )
    staleness_exponent: float = Field(
        0.5,
        ge=0,
        description="An update counts (1 + s) ** -exponent times its weight, where s is its staleness: how often its "
        "group was merged since its client started. With 0 all updates count in full.",
    )
    max_staleness: int | None = Field(
        None,
        ge=0,
        description="An update of a greater staleness is dropped, and counted as such; `null` drops none.",
        examples=[20],
        json_schema_extra={"unit": "merges"},
    )


class TrainingConfig(Section):
    """How rounds are trained."""

    rounds: int = Field(
        10,
        ge=1,
        description="How many rounds are trained; with `early_stopping`, at most.",
        json_schema_extra={"unit": "rounds"},
    )
    early_stopping: EarlyStoppingConfig | None = Field(
        None,
        description="Without this section all rounds are trained. Every task group needs a validation part "
        "(`holdout.validation`). Learning rates are those of all `rounds`, however many there will be.",
    )
    asynchrony: AsynchronyConfig | None = Field(
        None,
        description="Without this section a round waits for all clients of its cohort. With it clients train at the "
        "pace of their devices on the virtual clock, and a round is what happens from one merge to the next. Every "
        "client needs a device.",
    )
    local_steps: int = Field(
        8, ge=1, description="Steps that each client takes in a round.", json_schema_extra={"unit": "steps"}
    )
    batch_size: int = Field(
        8, ge=1, description="Examples of a client's local step.", json_schema_extra={"unit": "examples"}
    )
    max_length: int = Field(
        128,
        ge=2,
        description="The most tokens of an example; `on_truncated` says what becomes of longer ones.",
        json_schema_extra={"unit": "tokens"},
    )
    on_truncated: Literal["cut", "keep-end", "drop", "error"] = Field(
        "cut",
        description="What becomes of an example of more tokens than `max_length`: its end is cut (it is left out where "
        "nothing to learn is left), or its start, so that the response of an instruction stays; it is left out; or it "
        "is an error. How many there were is counted.",
    )
    cohort: Share = Field(1.0, description="The share of each group's clients that a round asks; at least one.")
    server_update: Literal["pooled", "sequential", "per-client"] = Field(
        "pooled",
        description="What the server steps on: the gradients of all clients of a group together, each client's in "
        "turn, or a copy of its parameters for each client, which are averaged at the end of the round.",
    )
    labels: Literal["server", "client"] = Field(
        "server",
        description="Where labels and heads are. With `client` they stay on the client, a U-shaped split with four "
        "transfers a step.",
    )
    client_optimizer: OptimizerConfig = OptimizerConfig()
    server_optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    drift: DriftConfig = DriftConfig()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    zeroth_order: ZerothOrderConfig = ZerothOrderConfig()
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Gradients of a step are clipped to this L2 norm, on each side; `null` does not clip."
    )
    autocast: Literal["off", "bfloat16"] = Field(
        "off", description="Compute matrix products in this dtype; parameters stay as they are."
    )
    on_nonfinite: Literal["stop", "drop-client"] = Field(
        "stop",
        description="Whether a loss, activation, gradient or update that is not finite ends the run with exit code 4, "
        "or drops its client for the round.",
    )
    deadline: Annotated[str, quantity(parse_time)] | None = Field(
        None,
        description="The virtual time of a round. A client whose own computing and transfers take longer is dropped; "
        "every client needs a device.",
        examples=["60 s"],
    )
    min_clients: int = Field(
        1,
        ge=1,
        description="A round that fewer clients of the cohort finish does not count, and ends the run with exit code "
        "5.",
        json_schema_extra={"unit": "clients"},
    )
