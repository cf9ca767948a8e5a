"""Token recovery by a linear map from activations to input embeddings, fitted on other text by ridge regression.

The penalty is chosen on a fifth of the attacker's own texts; a single text is fitted and chosen on alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.audit.attacks._recovery import Invert, nearest, recovery_by_inverters
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Tokens
from atlas_cli.audit.figures import Figure

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # times the mean eigenvalue of the Gram matrix


class Attack(BaseAttack):
    """Recovers tokens by a linear map."""

    channel = "activations"
    knows = "the frozen model, the adapters delivered, the defence, other text of the task"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered."""
        return recovery_by_inverters(self, evidence, fit)


def fit(material: Tokens, embedding: Tensor) -> Invert:
    """Fit a map from activations (N, D) to embeddings (N, D)."""
    held_out = material.texts % 5 == 0
    fitted = ~held_out if not held_out.all() else held_out
    x, y = material.hidden, embedding[material.ids]
    scores = []
    for penalty in PENALTIES:
        invert = _ridge(x[fitted], y[fitted], penalty)
        scores.append(float((nearest(invert(x[held_out]), embedding) == material.ids[held_out]).double().mean()))
    return _ridge(x, y, PENALTIES[scores.index(max(scores))])


def _ridge(x: Tensor, y: Tensor, penalty: float) -> Invert:
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = (x - mean_x).double()
    gram = centred.T @ centred
    # activations that are all alike have no scale: any penalty gives the mean
    scale = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    eye = torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram + penalty * scale * eye, centred.T @ (y - mean_y).double())
    return lambda seen: (seen - mean_x) @ weights.float() + mean_y
