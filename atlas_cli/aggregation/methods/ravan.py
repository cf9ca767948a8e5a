"""RAVAN (Raje et al., 2506.05568): small square heads between fixed orthonormal bases; weak clients train some of them.

    dW = sum_{i <= h} s_i B_i H_i A_i,   K_k = min(h, floor(r_k (d_in + d_out) / m^2)) heads are trained by client k
    H_i <- H_i + sum_{k: i in K_k} w_k (s_ki H_ki - H_i) / sum_{k: i in K_k} w_k,   s_i <- 1

over the clients that hold the layer. B_i and A_i follow from the seed, never change and are never sent; H_i begins at 0
and s_i at 1. Among clients that trained the same heads the mean of heads is the mean of products, and dW has rank h m
with h m^2 numbers. A client's rank r_k says how many numbers it can train, as many as LoRA of that rank, and so how
many heads; it runs the others frozen, so that before training each computes what the group computes. A head that nobody
trained stays as it is. ``lora.alpha`` scales nothing: s_i does.

Which heads a client trains is drawn from the seed for each merge, or by weight: those with the largest norm, ties by
lot. The bytes do not depend on the layer. Uplink: K_k (m^2 + 1) elements a layer, H_i and s_i; downlink: h (m^2 + 1),
for every client, and at set-up, or each time by weight, the numbers of the heads, h more. A client holds the bases of
its heads, K_k m (d_in + d_out) numbers, and the others as factors of as many. The frozen base is not changed; absent
clients keep what they hold; moments of H and s are reset by a delivery.

With m near sqrt(r (d_in + d_out) / h), r the largest rank, the strongest clients train all heads.
Refused with it is what reads or draws A and B: ``privacy.examples``, ``clustering``, ``audit``, adapters to start from,
``lora.rslora``, ``auto`` as a rank or split layer, and optimizers of the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import precise
from atlas_cli.config.schema.section import Section
from atlas_cli.models.adapters.heads import HeadsForm, heads_of
from atlas_cli.models.adapters.lora import AdapterForm
from atlas_cli.seeding import torch_generator


class Method(BaseMethod):
    """Averages each head over the clients that trained it."""

    SENT = TRAINED = ("B",)
    SELECTS = True
    CUTS_MAY_DIFFER = False  # the server holds the layers of others with some heads, and would train all of these

    class Options(Section):
        """The heads of a layer, and which of them a weak client trains."""

        heads: int = Field(4, ge=1, description="How many heads a group's adapter of a layer has, h.")
        size: int = Field(32, ge=1, description="The rows and columns of a head, m.")
        select: Literal["random", "weight"] = Field(
            "random",
            description="Which heads a client trains that cannot train all: drawn anew for each merge, or those with "
            "the largest norm.",
        )

    options: Options

    def __init__(self, options: Any = None, *, seed: int = 0, server_memory: int | None = None) -> None:
        super().__init__(options, seed=seed, server_memory=server_memory)
        if self.options.select == "random":  # a receiver draws the numbers of its heads itself
            self.DELIVERED = ("B",)  # type: ignore[misc]

    def form(self) -> AdapterForm:
        """Heads between fixed bases."""
        return HeadsForm(self.options.heads, self.options.size)

    def selected(self, client: str, merge: int, path: str, rank: int, merged: Factors) -> Sequence[int]:
        """Heads at random, each as likely as any other; by weight, the largest of them first."""
        drawn = torch.randperm(merged.rank, generator=torch_generator(self.seed, "ravan", client, path, merge))
        if self.options.select == "weight":
            norms = precise(heads_of(merged.B, self.options.size)[0]).flatten(1).norm(dim=1).cpu()
            drawn = drawn[norms[drawn].argsort(descending=True, stable=True)]
        return sorted(drawn[:rank].tolist())

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """Each head moved by the mean change of those who trained it."""
        merged = dict(current)
        for path, before in current.items():
            if held := shares(path, updates):
                merged[path] = Factors(before.A, self._moved(path, before, held).to(before.B))
        return Merge(merged)

    def _moved(self, path: str, before: Factors, held: Sequence[tuple[float, Update]]) -> torch.Tensor:
        old = precise(before.B)
        moved, reach = torch.zeros_like(old), old.new_zeros(before.rank)
        for weight, update in held:
            own, B = list(update.components[path]), precise(update.adapters[path].B)
            moved[:-1, own] += weight * (B[-1] * B[:-1] - old[-1] * old[:-1])[:, own]
            reach[own] += weight
        trained = reach > 0
        new = old.clone()
        new[:-1, trained] = (old[-1] * old[:-1] + moved[:-1] / reach)[:, trained]
        new[-1, trained] = 1
        return new
