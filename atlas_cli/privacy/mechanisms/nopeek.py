"""NoPeek (Vepakomma et al., 2008.09161): clients also make activations depend less on the tokens that they come from.

    loss + weight * dCor^2(embeddings of tokens, activations of tokens)

over the tokens of a batch, with the unbiased estimator (Szekely and Rizzo, 1310.2926): distances are U-centred, so that
independent samples give 0 in the mean, however few and wide they are; it may be negative. Only adapters of the client
follow its gradient. It bounds no epsilon: attacks say what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atlas_cli.config.schema.privacy import NoPeekConfig
from atlas_cli.privacy.mechanisms.contract import BaseMechanism

MAX_TOKENS = 256  # distances are between all pairs
MIN_TOKENS = 4


class Mechanism(BaseMechanism):
    """Makes activations depend less on the tokens by a penalty on their distance correlation."""

    protects = "nothing that could be proven: activations that depend less on tokens"
    Options = NoPeekConfig

    def penalty(self, embedded: Callable[[], Tensor], activations: Tensor, mask: Tensor) -> Tensor:
        """The weighted distance correlation of a batch."""
        return penalty(embedded(), activations, mask, self.options.weight)


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance correlation of n pairs, bias-corrected, 0-d: from about -1 / n to 1.

    Args:
        x: (n, p), y: (n, q); n of at least 4.
    """
    centred_x, centred_y = _u_centred(x), _u_centred(y)
    scale = (centred_x.square().sum() * centred_y.square().sum()).sqrt()
    return (centred_x * centred_y).sum() / scale.clamp(min=1e-12)


def penalty(embeddings: Tensor, activations: Tensor, mask: Tensor, weight: float) -> Tensor:
    """The distance correlation that is added to a client's loss, 0-d; 0 for batches of fewer than four tokens.

    Args:
        embeddings, activations: (B, T, D); mask: (B, T). Of more than ``MAX_TOKENS`` tokens evenly spaced ones count.
    """
    real = mask.bool()
    x, y = embeddings[real].float(), activations[real].float()
    if len(x) < MIN_TOKENS:
        return activations.sum() * 0.0
    if len(x) > MAX_TOKENS:
        chosen = torch.linspace(0, len(x) - 1, MAX_TOKENS, device=x.device).long()
        x, y = x[chosen], y[chosen]
    return weight * distance_correlation(x, y)


def _u_centred(x: Tensor) -> Tensor:
    """Distances (n, n) less their row and column means, as n - 2 and not n have it; the diagonal is 0."""
    n = len(x)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    rows = distances.sum(1) / (n - 2)
    centred = distances - rows[:, None] - rows[None, :] + distances.sum() / ((n - 1) * (n - 2))
    return centred * (1 - torch.eye(n, device=x.device, dtype=x.dtype))
