"""LoRA-FAIR (Bian et al., 2411.14961, eq. 8): averaged factors, with B corrected towards the exact sum.

For the averaged A and B (zero-padded, A (R, d_in)), B + dB with the ridge solution

    dB = (sum_k w_k s_k B_k (A_k A^T) - B A A^T) (A A^T + lambda I)^-1

is the best B for that A, up to the ridge: what is left of the error is the part of X that A does not span. Uplink and
downlink: r_k (d_in + d_out) elements a layer. The frozen base is not changed; absent clients keep what they hold;
moments of A and B are reset by a delivery.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import precise
from atlas_cli.aggregation.padding import padded_means
from atlas_cli.config.schema.section import Section


class Method(BaseMethod):
    """Averages padded factors, and corrects B."""

    KEEPS_COMPONENTS = True

    class Options(Section):
        """Options of the correction."""

        ridge: float = Field(
            1e-6,
            gt=0,
            description="The ridge lambda, as a share of the mean squared norm of a row of A. A larger one stays "
            "nearer the mean.",
        )

    options: Options

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """The averaged A with the corrected B; layers that nobody sent stay as they are."""
        merged = padded_means(current, updates)
        for path in merged:
            if held := shares(path, updates):
                A, B = precise(merged[path].A), precise(merged[path].B)
                rank = max(u.adapters[path].rank for _, u in held)  # rows beyond it have B = 0
                A_r, gram = A[:rank], A[:rank] @ A[:rank].T
                wanted = (
                    sum(w * precise(u.adapters[path].B) @ (precise(u.adapters[path].A) @ A_r.T) for w, u in held)
                    - B[:, :rank] @ gram
                )
                ridge = self.options.ridge * gram.diagonal().mean() * torch.eye(rank, dtype=A.dtype, device=A.device)
                B = B.clone()
                B[:, :rank] += torch.linalg.solve(gram + ridge, wanted.T).T
                merged[path] = Factors(merged[path].A, B.to(merged[path].B.dtype))
        return Merge(merged)
