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
from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, BaseMethod, ClientTerm, Context, Factors, Merge, Update
from atlas_cli.aggregation.low_rank import squared_norm
from atlas_cli.aggregation.padding import padded_means
from atlas_cli.config.schema.section import Section


class Method(BaseMethod):
    """Averages padded factors weighted by the norms of updates; ranks may shrink."""

    KEEPS_COMPONENTS = True
    PRUNES = True
    UNWEIGHTED = "weighs adapters by the norms of updates, a layer at a time"

    class Options(Section):
        """Options of self-pruning."""

        prune: float | None = Field(
            None,
            gt=0,
            lt=1,
            description="The share gamma of a layer's rank that pruning keeps; with `null` ranks stay.",
            examples=[0.9],
        )
        penalty: float = Field(
            0.0, ge=0, description="The weight of the tail's norm product in a client's loss; it needs `prune`."
        )

        @model_validator(mode="after")
        def _penalty_has_a_tail(self) -> Method.Options:
            if self.penalty and self.prune is None:
                raise ValueError("penalty is on the components that prune would drop; set prune, e.g. 0.9")
            return self

    options: Options

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The group's adapter at the largest rank of its clients; layers that nobody sent stay as they are."""
        trained = [p for p in current if any(squared_norm(u.adapters[p]) for u in updates if p in u.adapters)]
        by_norm = padded_means({path: current[path] for path in trained}, updates, lambda f: squared_norm(f) ** 0.5)
        return Merge({**padded_means(current, updates), **by_norm})

    def client_term(self) -> ClientTerm | None:
        """The penalty on the tail, or None without pruning."""
        if self.options.prune is None or not self.options.penalty:
            return None
        return TailPenalty(self.options.prune, self.options.penalty)

    def pruned(self, sent: Adapters, trained: Adapters) -> dict[str, int]:
        """ceil(gamma r) if the tail's norm product fell in the round, else r."""
        ranks = {path: factors.rank for path, factors in trained.items()}
        if self.options.prune is not None:
            for path, rank in ranks.items():
                kept = kept_rank(rank, self.options.prune)
                if _tail(trained[path], kept) < _tail(sent[path], kept):
                    ranks[path] = kept
        return ranks


class TailPenalty(ClientTerm):
    """``weight`` times the sum over layers of the norm product of the components that pruning by ``gamma`` drops."""

    def __init__(self, gamma: float, weight: float) -> None:
        super().__init__()
        self._gamma, self._weight = gamma, weight

    def penalty(self, adapters: Adapters) -> Tensor:
        """The penalty, 0-d and differentiable."""
        return self._weight * torch.stack([_tail(f, kept_rank(f.rank, self._gamma)) for f in adapters.values()]).sum()


def kept_rank(rank: int, gamma: float) -> int:
    """ceil(gamma r), at least 1, robust to rounding where gamma r is a whole number."""
    return max(1, math.ceil(gamma * rank - 1e-9))


def _tail(factors: Factors, kept: int) -> Tensor:
    return torch.linalg.vector_norm(factors.B[:, kept:]) * torch.linalg.vector_norm(factors.A[kept:])
