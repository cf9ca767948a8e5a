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
    server_memory: Annotated[str, quantity(parse_bytes)] | None = Field(
        None,
        description="The most memory that the merge of one layer may take; without it, as much as it needs.",
        examples=["512 MiB"],
    )
    cross_group: CrossGroupConfig = CrossGroupConfig()
    error_ledger: bool = Field(
        True,
        description="Compare every delivery with the exact sum of updates and record the difference. `atlas train "
        "--no-error-ledger` turns it off.",
    )
