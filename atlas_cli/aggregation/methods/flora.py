"""FLoRA (Wang et al., 2409.05976, eq. 6): stacked adapters are merged into the base, and adapters start anew.

    W <- W + sum_k w_k s_k B_k A_k,  from the stacks [w_k s_k B_k] and [A_k]

over the clients that hold the layer: exact at every rank. Then every client begins again with B = 0 and a fresh A,
drawn from (seed, group, round, layer), the same on both sides and nested in rank, so that nothing of it is sent.
Uplink: r_k (d_in + d_out) elements a layer; downlink: the stacks of all clients, (sum r_k)(d_in + d_out). Changes the
frozen base of the group's clients by a residual of growing rank, at most min(d_in, d_out); the exported adapter is
that residual. A client that was absent keeps its base and adapter until it takes part again, and is sent all that it
missed. Moments of A and B are reset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update
from atlas_cli.aggregation.error import exact_change
from atlas_cli.aggregation.low_rank import stack
from atlas_cli.models.adapters.lora import initial_A
from atlas_cli.seeding import torch_generator


class Method(BaseMethod):
    """Merges stacked adapters into the base, and starts new adapters."""

    DELIVERED = ()
    CHANGES_BASE = DRAWS = True

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """New adapters and the stacks; layers that nobody sent stay as they are."""
        fresh, base = dict(current), {}
        for path, before in current.items():
            if change := exact_change(path, updates, before):
                base[path] = stack(change, before.A.dtype)
                fresh[path] = self.drawn(before, path, context.group, context.round)
        return Merge(fresh, base)

    def drawn(self, before: Factors, path: str, group: str, number: int) -> Factors:
        """B = 0, and a random A that client and server draw identically."""
        generator = torch_generator(self.seed, "flora", group, number, path)
        A = initial_A(before.rank, before.A.shape[1], generator).to(before.A)
        return Factors(A, torch.zeros_like(before.B))
