"""The part of the config that says how adapters are merged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section, one_of, quantity
from atlas_cli.units import parse_bytes


class CrossGroupConfig(Section):
    """How far the merged adapters of task groups are mixed; heads never are."""

    strength: float = Field(
        0.0, ge=0, le=1, description="How much a group takes from the others; with 0 groups stay apart.", examples=[0.2]
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Of the weights exp(cosine / temperature) with `graph: softmax`. A small one mixes only the groups "
        "that are most alike.",
    )
    graph: Literal["softmax", "laplacian"] = Field(
        "softmax",
        description="Which groups are mixed: `softmax` by how alike their updates are, `laplacian` by a step on the "
        "graph of groups whose updates have a positive cosine.",
    )


class MergeOptimizerConfig(Section):
    """By which rule a group's adapter moves, with the merged change of a round as its gradient."""

    name: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = Field(
        "sgd",
        description="The rule: `sgd` moves by `lr` times the merged change, `momentum` by the running sum of changes "
        "(FedAvgM); `adam`, `yogi` and `adagrad` divide their running mean by its size in the rounds so far (FedOpt).",
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="The rate of the server. Without it 1 for `sgd` and `momentum`: the change itself. The others need "
        "it: it is about the root mean square of what a step adds to a number of dW.",
        examples=[1e-4],
    )
    momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="The decay of the running sum or mean of changes. Without it 0.9, and 0 for `adagrad`.",
        examples=[0.9],
    )
    decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="The decay of the mean squares of `adam` and `yogi`. Without it 0.99.",
        examples=[0.99],
    )
    tau: float | None = Field(
        None,
        gt=0,
        description="What is added to the root of mean squares. Without it 1e-6. Where it is above the root mean "
        "square of a change of dW, a step is hardly divided by anything else.",
        examples=[1e-6],
    )
    second: Literal["layer", "row-column"] | None = Field(
        None,
        description="What mean squares are of: all numbers of a layer's dW (`layer`, without it), or those of each row "
        "and each column (`row-column`). Neither depends on how dW is factored, and neither raises its rank.",
        examples=["row-column"],
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="The rank at which the running sum of a layer is kept. Without it twice the group's rank there. "
        "What the cut loses is `optimizer_truncation` in metrics.jsonl.",
        examples=[32],
    )


class AggregationConfig(Section):
    """How a group's adapters are merged."""

    method: Annotated[str, one_of("aggregation.methods")] = Field(
        "delta-svd", description="The aggregation method, by the name of its file."
    )
    options: dict[str, Any] = Field(
        {},
        description="Options of the method; its page in the reference lists them.",
        examples=[{"ridge": 1e-6}],
    )
    weights: Literal["examples", "tokens", "uniform", "inverse-rank"] = Field(
        "examples",
        description="What a client's weight in the merge goes by: its examples (label tokens where every token has a "
        "label), the tokens of its texts, nothing, or 1 / its mean rank. `clients.NAME.weight` multiplies it.",
    )
    normalise: Literal["none", "fednova"] = Field(
        "none",
        description="What becomes of unequal local steps (`clients.NAME.local_steps`). With `none` a client that takes "
        "more moves the group further; `fednova` merges changes per step, times the mean number of steps.",
    )
    server_memory: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="The most memory that the merge of one layer may take; without it, as much as it needs.",
        examples=["512 MiB"],
    )
    optimizer: MergeOptimizerConfig = MergeOptimizerConfig()
    cross_group: CrossGroupConfig = CrossGroupConfig()
    error_ledger: bool = Field(
        True,
        description="Compare every delivery with the exact sum of updates and record the difference. `atlas train "
        "--no-error-ledger` turns it off.",
    )
