"""Tokens from the gradient of a client's adapters, by matching it (TAG, Deng et al. 2021, 2103.06819).

The server knows what a client's step back-propagates: the gradient at the cut, which it sent. Input embeddings are
optimised until the client half, with the adapters delivered, has the gradient g that the client's adapters show:

    |g' - g|_2^2 + alpha |g' - g|_1,  alpha 0.01, in units of |g|

and the nearest tokens are the guess. All positions begin with the mean embedding. The paper takes 2,500 steps from
random ones, and dummy labels; here they are few, and labels are not needed.

Defences are known: where a clip may have bound, or there is noise, directions are compared, since the length is not
known; under noise alpha is 0, as the squared distance alone is then the likelihood. Codecs are decoded.

A gradient is seen where clients send that of their first local step (``drift: scaffold``), or where an update is one
plain step of SGD. LoRA caps what it shows: the gradient of A has rows in the span of r directions of the inputs, and is
0 while B is 0, in the first round; that of B has inputs as A (r, d) maps them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.audit.attacks._client_gradients import client_gradients
from atlas_cli.audit.attacks._gradient_search import (
    STEPS,
    TEXTS,
    Target,
    descend,
    mean_embedding,
    nearest_tokens,
    recovery_by_gradients,
)
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure

ALPHA = 0.01


class Attack(BaseAttack):
    """Recovers tokens by matching gradients of adapters."""

    channel = "updates"
    knows = "the frozen model, the adapters delivered, the gradients at the cut, lengths of texts, the defence"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered, position by position.

        Raises:
            Inapplicable: no recorded message is the gradient of a local step.
        """
        gradients = client_gradients(evidence, min(TEXTS, evidence.most))
        return recovery_by_gradients(self, evidence, gradients, recover, f"{STEPS} steps")


def recover(target: Target) -> Tensor:
    """The token ids (B, T) that fit gradients best, by descent."""
    return nearest_tokens(target, descend(target, distance, mean_embedding(target), STEPS))


def distance(target: Target, embedded: Tensor, at_cut: Tensor) -> Tensor:
    """How far the gradients of embeddings (B, T, D) are from those seen, (K,)."""
    found = torch.cat(target.parts(embedded, at_cut), 1)
    apart = found - target.seen
    squares = apart.square().sum(1)
    return squares if target.noisy else squares + ALPHA * apart.abs().sum(1)
