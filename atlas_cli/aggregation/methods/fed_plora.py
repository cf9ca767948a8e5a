"""Fed-PLoRA (2602.16936): a client trains a random part of the components, and runs the others frozen.

    K_k: r_k of the R components, at random for each merge;  client k runs W + sum_{j not in K_k} b_j a_j + s_k B_k A_k
    b_j <- b_j + sum_{k: j in K_k} w_k (b_kj - b_j) / sum_{k: j in K_k} w_k,  a_j alike

over the clients that hold the layer, with R the largest rank of the group. Every client is delivered all R components,
so that before training each computes what the group computes, whatever its rank. A and B are averaged apart: a mean of
factors is not the mean of products, and where all ranks are R it is ``zero-pad``. A component that nobody trained stays
as it is, and so does all of it in an idle round. Components are drawn from the seed, by layer; the server knows them,
so that no index is sent.

Uplink: r_k (d_in + d_out) elements a layer; downlink: R (d_in + d_out), for every client. A client keeps the other R -
r_k components as factors beside its frozen weights, which counts in its memory and in its work. The base is the same
for all; absent clients keep what they hold; moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import precise
from atlas_cli.seeding import torch_generator


class Method(BaseMethod):
    """Averages each component over the clients that trained it."""

    SELECTS = True
    CUTS_MAY_DIFFER = False  # the server holds the layers of others at one rank, and would train all of it

    def selected(self, client: str, merge: int, path: str, rank: int, merged: Factors) -> Sequence[int]:
        """Components at random, each as likely as any other."""
        draw = torch_generator(self.seed, "fed-plora", client, path, merge)
        return sorted(torch.randperm(merged.rank, generator=draw)[:rank].tolist())

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """Each component moved by the mean change of those who trained it."""
        merged = dict(current)
        for path, before in current.items():
            if held := shares(path, updates):
                merged[path] = _moved(path, before, held)
        return Merge(merged)


def _moved(path: str, before: Factors, held: Sequence[tuple[float, Update]]) -> Factors:
    A, B = (precise(part) for part in before)
    by_A, by_B, reach = torch.zeros_like(A), torch.zeros_like(B), A.new_zeros(before.rank)
    for weight, update in held:
        factors, rank = update.adapters[path], update.adapters[path].rank
        own = list(update.components.get(path, range(rank)))
        by_A[own] += weight * (precise(factors.A) - A[:rank])[own]
        by_B[:, own] += weight * (precise(factors.B) - B[:, :rank])[:, own]
        reach[own] += weight
    reach[reach == 0] = 1
    moved: tuple[Tensor, Tensor] = A + by_A / reach[:, None], B + by_B / reach
    return Factors(*(part.to(old.dtype) for part, old in zip(moved, before, strict=True)))
