"""A variational information bottleneck at the cut: what it sends of a token's activation is drawn around its mean.

    mu = (1 + a) z + b,   sigma = softplus(c + U V z - 0.5),   v = mu + sigma e, e ~ N(0, I),   sent: (1 + p) v + q

by feature, where V (r x D) and U (D x r) alone mix features. All but V begin at 0, so that at first what is sent is the
activation with noise of deviation softplus(-0.5) = 0.474 on each feature.

Shape suffixes: B batch, T tokens, D hidden size, r rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "bottleneck"
_SHIFT = 0.5  # of the paper: sigma = softplus(. - 0.5)


class Bottleneck(nn.Module):
    """The encoder and the decoder, with float32 parameters.

    Args:
        hidden_size: D.
        rank: r, of the linear map from an activation to the deviations of its noise.
    """

    def __init__(self, hidden_size: int, rank: int) -> None:
        super().__init__()
        zeros = (torch.zeros(hidden_size, dtype=torch.float32) for _ in range(4))
        self.gain, self.shift, self.decoded_gain, self.decoded_shift = map(nn.Parameter, zeros)
        self.down = nn.Linear(hidden_size, rank, bias=False, dtype=torch.float32)
        self.up = nn.Linear(rank, hidden_size, dtype=torch.float32)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, z_BTD: Tensor, noise_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """What is sent, in the dtype of the activations, and the divergence of each token (B, T), in nats, float32.

        The divergence is that of N(mu, sigma^2) from N(0, I): the sum over features of
        (mu^2 + sigma^2 - 1 - 2 ln sigma) / 2.
        """
        with torch.autocast(z_BTD.device.type, enabled=False):
            z = z_BTD.float()
            mean = (1 + self.gain) * z + self.shift
            deviation = F.softplus(self.up(self.down(z)) - _SHIFT)
            divergence_BT = (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum(-1) / 2
            drawn = mean + deviation * noise_BTD
            sent = (1 + self.decoded_gain) * drawn + self.decoded_shift
        return sent.to(z_BTD.dtype), divergence_BT


def bottleneck_of(head: nn.Module) -> Bottleneck:
    """The bottleneck that is a part of a head."""
    found = getattr(head, NAME)
    assert isinstance(found, Bottleneck)
    return found


def mean_divergence(divergence_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean over real tokens, 0-d."""
    mask = mask_BT.to(divergence_BT.dtype)
    return (divergence_BT * mask).sum() / mask.sum()
