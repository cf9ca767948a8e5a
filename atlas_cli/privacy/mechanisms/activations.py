"""Clipping and Gaussian noise on each token's activation at the cut.

    h <- h min(1, C / |h|) + N(0, (z C)^2)

fresh in every message. Gradients pass through the clipping. Predictions, which are made through the cut as well, are
scored with it. Neighbours differ in the words of one example, whose length is known: each of its T tokens
(those of all its windows, where it is read in several) moves by up to 2 C, all together by 2 C sqrt(T), and it is sent
once an epoch, so that its epsilon is that of a multiplier z / (2 sqrt(T * epochs)). Padding, which a block fills with
what the words make of it, is sent as 0 and noise. For a noise that leaves anything to learn epsilon is in the hundreds
or more.

Adapters are taken as known. They learn from the words as well, and so does what they make of other texts later; only
DP-SGD (``examples.py``) bounds that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.config.schema.privacy import NoiseConfig
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import torch_generator


class Mechanism(BaseMechanism):
    """Clips each token's activation and adds Gaussian noise."""

    channel = "activations"
    unit = "words of an example (a row with all its windows)"
    protects = "the words of a training example, from the server and who reads the wire; not its length"
    Options = NoiseConfig


class ActivationNoise:
    """Clipping and noise for the activations of one party.

    Args:
        clip: C.
        multiplier: z.
        seed: the seed of the run.
        name: the party whose activations it protects.
    """

    def __init__(self, clip: float, multiplier: float, seed: int, name: str) -> None:
        self.clip, self.multiplier, self.seed, self.name = clip, multiplier, seed, name

    def __call__(self, activations: Tensor, *when: str | int) -> Tensor:
        """The clipped and noisy ``activations`` (..., D), differentiable.

        Args:
            when: round and step; equal ones draw equal noise.
        """
        hidden = activations.float()
        norms = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).clamp(min=1e-30)
        generator = torch_generator(self.seed, "privacy-activations", self.name, *when)
        noise = self.multiplier * self.clip * torch.randn(hidden.shape, generator=generator)
        return (hidden * (self.clip / norms).clamp(max=1.0) + noise.to(hidden.device)).to(activations.dtype)
