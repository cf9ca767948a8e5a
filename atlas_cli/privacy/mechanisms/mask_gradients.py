"""Disguises the gradients of padding: on the wire they look like those of real tokens.

They are exactly 0, so that a reader of the server's messages alone counts the tokens of every text. The server sends
Gaussian noise of the real ones' root mean square in their place, and the client puts the zeros back: training is the
same bit for bit. The server knows the attention mask, and so does who reads the client's messages.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import torch_generator
from atlas_cli.wire.messages import Gradients


class Mechanism(BaseMechanism):
    """Replaces the zero gradients of padding by noise."""

    protects = "numbers of tokens, from who reads the messages of the server only"


class PaddingCover:
    """Covers and uncovers the padding in the gradient messages of one client.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def cover(self, message: Gradients, mask: Tensor, number: int, step: int) -> Gradients:
        """A gradient message with noise in place of padding; mask: (B, T)."""
        gradients = message.gradients
        padding = ~mask.bool().to(gradients.device)
        real = gradients[~padding].float()
        generator = torch_generator(self.seed, "mask-gradients", message.client, number, step)
        noise = real.square().mean().sqrt() * torch.randn(gradients.shape, generator=generator).to(gradients.device)
        covered = torch.where(padding.unsqueeze(-1), noise.to(gradients.dtype), gradients)
        return replace(message, gradients=covered)

    @staticmethod
    def uncover(gradients: Tensor, mask: Tensor) -> Tensor:
        """The gradients with 0 in place of padding again."""
        return torch.where(mask.bool().unsqueeze(-1), gradients, torch.zeros_like(gradients))
