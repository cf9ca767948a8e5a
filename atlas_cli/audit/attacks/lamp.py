"""Tokens from the gradient of a client's adapters, matched with a prior (LAMP, Balunovic et al. 2022, 2202.08827).

As ``tag``, with another distance and two priors. Input embeddings e are optimised for

    1 - mean over parameters of cos(g', g) + rho (mean |e| / c - 1)^2

with c the mean norm of the model's embeddings. After each of a few stretches of descent the nearest tokens of a text
are reordered, by swapping two or moving one, at random: an order that fits better, by cosine plus 0.2 times the
log-loss of the text under a language model, is descended from. The language model is the frozen model where it is one,
else bigrams of other text of the task; a note says which. The paper takes 2,000 steps and reorders every 75.

Clips do not matter to a cosine. Under noise, which is known, the prior counts five times as much.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

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
from atlas_cli.audit.attacks._prior import Bigrams, Prior, language_model
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure
from atlas_cli.seeding import torch_generator

STRETCHES, TRIES = 4, 20  # of descent, and orders tried after each
NORM, FLUENT, UNDER_NOISE = 0.1, 0.2, 5.0


class Attack(BaseAttack):
    """Recovers tokens by matching gradients of adapters, with a language model as a prior."""

    channel = "updates"
    knows = (
        "the frozen model, the adapters delivered, the gradients at the cut, lengths of texts, the defence; where the "
        "frozen model is no language model, other text of the task"
    )

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered, position by position.

        Raises:
            Inapplicable: no recorded message is the gradient of a local step.
        """
        base = evidence.federation.base
        speaks = base.lm_head is not None

        def recovered(target: Target) -> Tensor:
            own = language_model(base) if speaks else Bigrams(evidence.public_texts(target.client), len(target.table))
            return recover(target, own)

        gradients = client_gradients(evidence, min(TEXTS, evidence.most))
        prior = "the frozen language model" if speaks else "bigrams of other text"
        note = f"{STEPS} steps, {STRETCHES * TRIES} orders of tokens, prior: {prior}"
        return recovery_by_gradients(self, evidence, gradients, recovered, note)


def recover(target: Target, prior: Prior) -> Tensor:
    """The token ids (B, T) that fit gradients and the prior best."""
    embedded = mean_embedding(target)
    draw = torch_generator(0, "lamp")
    for _ in range(STRETCHES):
        embedded = descend(target, distance, embedded, STEPS // STRETCHES)
        found = nearest_tokens(target, embedded)
        ordered = reordered(target, found, prior, draw)
        embedded = torch.where((ordered != found)[:, :, None], target.table[ordered], embedded)
    return nearest_tokens(target, embedded)


def distance(target: Target, embedded: Tensor, at_cut: Tensor) -> Tensor:
    """1 - the mean cosine of gradients, and how far norms of embeddings are from the usual one, (K,)."""
    usual = target.table.norm(dim=1).mean()
    real = target.steps.mask.float()
    norms = (embedded.norm(dim=2) * real).sum(1) / real.sum(1) / usual
    return _apart(target, embedded, at_cut) + target.steps.by_client(NORM * (norms - 1).square())


def reordered(target: Target, ids: Tensor, prior: Prior, draw: torch.Generator) -> Tensor:
    """The best found order of the tokens of each client's texts, (B, T)."""
    weight = FLUENT * (UNDER_NOISE if target.noisy else 1.0)

    def cost(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            unlikely = target.steps.by_client(prior(tokens, target.steps.mask))
        return _apart(target, target.table[tokens], target.at_cut).detach() + weight * unlikely

    best, least = ids, cost(ids)
    for _ in range(TRIES):
        tried = torch.stack([_moved(row, int(n), draw) for row, n in zip(best, target.steps.mask.sum(1), strict=True)])
        found = cost(tried)
        better = found < least
        best = torch.where(better[target.steps.owners][:, None], tried, best)
        least = torch.where(better, found, least)
    return best


def _apart(target: Target, embedded: Tensor, at_cut: Tensor) -> Tensor:
    """1 - the mean cosine of gradients by parameter, of those that are not 0, (K,)."""
    found = target.parts(embedded, at_cut)
    seen = target.seen_parts([part.shape[1] for part in found])
    cosines = torch.stack([cosine_similarity(part, own, dim=1) for part, own in zip(found, seen, strict=True)])
    there = torch.stack([own.any(1) for own in seen]).float()
    return 1 - (cosines * there).sum(0) / there.sum(0)


def _moved(row: Tensor, length: int, draw: torch.Generator) -> Tensor:
    """A text's tokens (T,) with two swapped, or one moved, among the first ``length``."""
    i, j, swap = (int(torch.randint(n, (1,), generator=draw)) for n in (length, length, 2))
    order = list(range(len(row)))
    if swap:
        order[i], order[j] = order[j], order[i]
    else:
        order.insert(j, order.pop(i))
    return row[order]
