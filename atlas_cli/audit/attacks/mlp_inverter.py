"""Token recovery by a small network from activations to input embeddings, trained on other text.

A linear map plus one hidden layer; cross-entropy over the tokens of the training text, whose logits are cosines with
their embeddings. Guesses are over the whole vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.audit.attacks._recovery import Invert, recovery_by_inverters
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Tokens
from atlas_cli.audit.figures import Figure
from atlas_cli.seeding import forked

EPOCHS, BATCH, RATE, WIDTH, SHARPNESS = 10, 128, 1e-3, 512, 20.0


class Attack(BaseAttack):
    """Recovers tokens by a small network."""

    channel = "activations"
    knows = "the frozen model, the adapters delivered, the defence, other text of the task"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered."""
        return recovery_by_inverters(self, evidence, fit)


def fit(material: Tokens, embedding: Tensor) -> Invert:
    """Train a map from activations (N, D) to directions of embeddings (N, D)."""
    x, size = material.hidden, material.hidden.shape[1]
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / scale
    known, targets = material.ids.unique(return_inverse=True)
    rows = F.normalize(embedding[known], dim=1)
    with forked(0, "mlp-inverter"):
        direct = nn.Linear(size, size)
        deep = nn.Sequential(nn.Linear(size, WIDTH), nn.GELU(), nn.Linear(WIDTH, size))
        optimizer = torch.optim.Adam([*direct.parameters(), *deep.parameters()], RATE)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x)).split(BATCH):
                cosines = F.normalize(direct(x[batch]) + deep(x[batch]), dim=1) @ rows.T
                optimizer.zero_grad()
                F.cross_entropy(SHARPNESS * cosines, targets[batch]).backward()
                optimizer.step()

    @torch.no_grad()
    def invert(seen: Tensor) -> Tensor:
        seen = (seen - mean) / scale
        return direct(seen) + deep(seen)

    return invert
