"""Clipping and Gaussian noise on the fingerprint that a client is clustered by.

    f <- f min(1, C / |f|) + N(0, (z C)^2)

drawn by the client, once for each clustering. Neighbours differ by one client's data, whose fingerprint is 0 in the
other. The activations and gradients from which the server helps to make it are another channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.config.schema.privacy import NoiseConfig
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import torch_generator


class Mechanism(BaseMechanism):
    """Clips each client's fingerprint and adds Gaussian noise."""

    channel = "fingerprints"
    unit = "client"
    protects = "a client's data, from who sees its fingerprint"
    Options = NoiseConfig


class FingerprintNoise:
    """Clipping and noise for the fingerprints of all clients.

    Args:
        clip: C.
        multiplier: z.
        seed: of the run.
    """

    def __init__(self, clip: float, multiplier: float, seed: int) -> None:
        self.clip, self.multiplier, self.seed = clip, multiplier, seed

    def __call__(self, fingerprint: Tensor, client: str, turn: int) -> Tensor:
        """The clipped and noisy ``fingerprint`` (size,) that is sent in clustering number ``turn``."""
        norm = float(fingerprint.norm())
        generator = torch_generator(self.seed, "privacy-fingerprints", client, turn)
        noise = self.multiplier * self.clip * torch.randn(fingerprint.shape, generator=generator)
        return fingerprint * min(1.0, self.clip / norm if norm else 1.0) + noise.to(fingerprint)
