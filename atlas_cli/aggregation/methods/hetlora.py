"""HetLoRA (Cho et al., 2401.06432, eq. 3 to 5): zero-padded means, each client weighted by the norm of its update.

    A = sum_k p_k pad(A_k),  B = sum_k p_k pad(s_k B_k),  p_k proportional to norm(s_k B_k A_k), a layer at a time

so that clients whose update is large, which tend to be those of high rank, count for more; a receiver gets the first r
rows and columns. A layer where all updates are zero is averaged by examples.

Self-pruning of ranks (option ``prune``, gamma): the tail of a layer are the components from ceil(gamma r) on. A client
adds ``penalty`` times norm(B tail) norm(A tail) to its loss, and drops the tail once that product fell in a round.

Uplink and downlink: r_k (d_in + d_out) elements a layer. The frozen base is not changed; absent clients keep what they
hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, Context, Factors, Merge, Update, truncated
from atlas_cli.aggregation.low_rank import squared_norm
from atlas_cli.aggregation.padding import padded_means
from atlas_cli.config.schema.section import Section

SENT = DELIVERED = TRAINED = ("A", "B")
GROUP_ADAPTER = True
CHANGES_BASE = False
UNWEIGHTED = "weighs adapters by the norms of updates, a layer at a time"


class Options(Section):
    """Of self-pruning."""

    prune: float | None = Field(
        None, gt=0, lt=1, description="gamma: share of a layer's rank that pruning keeps; null: ranks stay"
    )
    penalty: float = Field(0.0, ge=0, description="weight of the tail's norm product in a client's loss; needs prune")

    @model_validator(mode="after")
    def _penalty_has_a_tail(self) -> Options:
        if self.penalty and self.prune is None:
            raise ValueError("penalty is on the components that prune would drop; set prune, e.g. 0.9")
        return self


def aggregate(current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
    """The group's adapter at the largest rank of its clients; layers that nobody sent stay as they are."""
    trained = [path for path in current if any(squared_norm(u.adapters[path]) for u in updates if path in u.adapters)]
    by_norm = padded_means({path: current[path] for path in trained}, updates, lambda f: squared_norm(f) ** 0.5)
    return Merge({**padded_means(current, updates), **by_norm})


def deliver(merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The first r rows and columns of each layer that the client adapts."""
    return truncated(merged, ranks)


def penalty(adapters: Adapters, options: Options) -> Tensor:
    """What a client adds to its loss: penalty * sum over layers of the tail's norm product; differentiable, 0-d."""
    if options.prune is None or not options.penalty:
        return torch.zeros(())
    return options.penalty * torch.stack([_tail(f, kept_rank(f.rank, options.prune)) for f in adapters.values()]).sum()


def pruned(sent: Adapters, trained: Adapters, options: Options) -> dict[str, int]:
    """Ranks that a client keeps after a round begun with ``sent``: ceil(gamma r) where the tail fell, else r."""
    ranks = {path: factors.rank for path, factors in trained.items()}
    if options.prune is not None:
        for path, rank in ranks.items():
            kept = kept_rank(rank, options.prune)
            if _tail(trained[path], kept) < _tail(sent[path], kept):
                ranks[path] = kept
    return ranks


def kept_rank(rank: int, gamma: float) -> int:
    """ceil(gamma r): at least 1, and not one more where gamma r is whole but for rounding."""
    return max(1, math.ceil(gamma * rank - 1e-9))


def _tail(factors: Factors, kept: int) -> Tensor:
    return torch.linalg.vector_norm(factors.B[:, kept:]) * torch.linalg.vector_norm(factors.A[kept:])
