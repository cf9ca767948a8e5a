"""The part of the config that says whose adapters are merged where the task groups are not to be trusted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from atlas_cli.config.schema.section import Section


def _check_k(k: Any) -> Any:
    if k != "auto" and k < 1:
        raise ValueError(f"must be auto or at least 1, got {k}")
    return k


class ClusteringConfig(Section):
    """Merge the adapters of clusters of clients that are found, instead of those of each task group.

    Task groups still say where data come from and what a head predicts.
    """

    by: Literal["fingerprints", "oracle", "random", "single"] = Field(
        "fingerprints",
        description="How clusters are found: by fingerprints of the clients' gradients, or by a control: `oracle` "
        "takes the task groups themselves, `random` deals clients out, `single` makes one cluster.",
    )
    k: Annotated[int | Literal["auto"], AfterValidator(_check_k)] = Field(
        "auto",
        description="Number of clusters. `auto` takes the number with the best silhouette (with `by: random` as many "
        "as there are task groups).",
        examples=[4],
    )
    every: int | None = Field(
        None,
        ge=1,
        description="Find clusters again every this many rounds, on more batches; without it, once, before training.",
        examples=[5],
        json_schema_extra={"unit": "rounds"},
    )
    batches: int = Field(
        24,
        ge=1,
        description="How many of a client's batches its fingerprint is made of; each example is used once at most.",
        json_schema_extra={"unit": "batches"},
    )
    size: int = Field(64, ge=2, description="How many numbers a fingerprint has.")
    min_silhouette: float = Field(
        0.1,
        ge=-1,
        le=1,
        description="With `k: auto` there is one cluster where the best silhouette is below this.",
    )
