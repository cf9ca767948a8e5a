"""MID (Zou et al., 2301.01142): a variational information bottleneck at the cut, trained with the client's half.

```text
loss + weight * mean over tokens of sum over features of (mu^2 + sigma^2 - 1 - 2 ln sigma) / 2
mu = (1 + a) z + b,  sigma = softplus(c + U V z - 0.5),  v = mu + sigma e,  e ~ N(0, I),  sent: (1 + p) v + q
```

The penalty is the divergence of what is drawn of an activation z from the prior N(0, I), an upper bound of the mutual
information between the two under that prior (Alemi et al., 1612.00410): what the task does not need is given up to
noise. **This is a narrow form of the paper's**, whose encoder and decoder are networks over all features: here mean and
decoder act on each feature by itself, and only the deviation of the noise depends on all features, by a linear map of
small rank. It begins as the identity with noise of deviation 0.474 on each feature, as a pretrained server half could
make nothing of a random decoder. Weight 0 leaves the bottleneck, which is then trained for the task alone.

The bottleneck is a part of the client's own head, so that `training.labels: client` is needed: it is trained with the
client's optimizer, sent, merged by the weighted mean of its task group, delivered, counted, checkpointed, and kept with
the head in head.safetensors. Noise is drawn anew in every message, by seed, client, round and step.

Predictions are made with noise, too: what is sent of a text to predict on is what an attacker sees, and the mean alone
is an invertible map of the activation. They draw the same noise each time. A folder for stock tools has no place for a
bottleneck, so that `atlas export` refuses such a run.

It bounds no epsilon, as mean and deviation are learnt and nothing clips them; attacks say what it is worth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atlas_cli.config.schema.privacy import MidConfig
from atlas_cli.models.bottleneck import bottleneck_of, mean_divergence
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import torch_generator


class Mechanism(BaseMechanism):
    """Sends draws of a trained bottleneck instead of activations."""

    protects = "nothing that could be proven: of an activation is sent what the task needs, and noise"
    Options = MidConfig


class BottleneckNoise:
    """The bottleneck of one party at work.

    Args:
        weight: of the divergence in the loss.
        seed: of the run.
        name: the party whose activations it is for; "evaluation" where predictions are made.
    """

    def __init__(self, weight: float, seed: int, name: str) -> None:
        self.weight, self.seed, self.name = weight, seed, name

    def __call__(self, head: nn.Module, activations: Tensor, mask: Tensor, *when: int) -> tuple[Tensor, Tensor]:
        """What is sent instead of ``activations`` (B, T, D), differentiable, and the term of the client's loss, 0-d.

        Args:
            head: with the bottleneck.
            mask: (B, T), whether a token is real.
            when: round and step, or the number of a batch; equal ones draw equal noise.
        """
        generator = torch_generator(self.seed, "privacy-mid", self.name, *when)
        noise = torch.randn(activations.shape, generator=generator).to(activations.device)
        sent, divergence = bottleneck_of(head)(activations, noise)
        return sent, self.weight * mean_divergence(divergence, mask)
