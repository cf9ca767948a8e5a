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
        description="gradients of clients; controls: oracle (the task groups themselves), random, single (one cluster)",
    )
    k: Annotated[int | Literal["auto"], AfterValidator(_check_k)] = Field(
        "auto", description="number of clusters; auto: the best silhouette (random: as many as task groups)"
    )
    every: int | None = Field(
        None, ge=1, description="cluster again every this many rounds, on more batches; default: once, before training"
    )
    batches: int = Field(
        24, ge=1, description="batches of a client that its fingerprint is made of; its examples are used once at most"
    )
    size: int = Field(64, ge=2, description="numbers in a fingerprint")
    min_silhouette: float = Field(
        0.1, ge=-1, le=1, description="with k: auto, one cluster where the best silhouette is below this"
    )
