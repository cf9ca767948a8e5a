"""The part of the config that says how adapters are merged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section, one_of, quantity
from atlas_cli.units import parse_bytes


class CrossGroupConfig(Section):
    """How far the merged adapters of task groups are mixed; heads never are."""

    strength: float = Field(0.0, ge=0, le=1, description="0: groups stay apart")
    temperature: float = Field(1.0, gt=0, description="of exp(cosine / temperature); small: only the most alike")
    graph: Literal["softmax", "laplacian"] = "softmax"


class AggregationConfig(Section):
    """How a group's adapters are merged."""

    method: Annotated[str, one_of("aggregation.methods")] = "delta-svd"
    options: dict[str, Any] = Field({}, description="of the method, e.g. {ridge: 1e-6} for lora-fair")
    weights: Literal["examples", "tokens", "uniform", "inverse-rank"] = Field(
        "examples",
        description="of clients in the merge: examples (label tokens where every token has a label), tokens of their "
        "texts, all alike, or 1 / mean rank; times clients.NAME.weight",
    )
    server_memory: Annotated[str, quantity(parse_bytes)] | None = Field(
        None, description="the merge of one layer may take this much, e.g. 512 MiB; default: what it needs"
    )
    cross_group: CrossGroupConfig = CrossGroupConfig()
    error_ledger: bool = Field(
        True, description="compare every delivery with the exact sum (atlas train --no-error-ledger: false)"
    )
