"""Token recovery by a learned inverter that is then matched with what was sent, in both directions (BiSR, 2409.00960).

1. A recurrent network (GRU) is trained on other text to invert the client half, with the defence in force: where
   activations get noise, at its scale, drawn anew each time.
2. Backward, where the client sends gradients of a language model's loss (``labels: client``): the labels are the text.
   With the features, which the server computed itself, the gradient of each is W^T (softmax(W f) - y) / n for the
   output embedding W. Soft labels y, which begin with what the inverter expects, are optimised until the gradient is
   the one that was sent: beta |g - g'|_2^2 + (1 - beta) |g - g'|_1. The gradient that the server returns at the cut
   tells the server nothing that it did not compute, and is not used.
3. Forward: input embeddings e are optimised until the client half f, with the adapters delivered, makes of them what
   was sent: sum of 1 - cos(f(e), h). The nearest tokens replace the guess for a text if f makes of them what is nearer
   to h. A text whose guess already gives h is left alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.audit.attacks._forward_match import Matcher
from atlas_cli.audit.attacks._recovery import Guess, nearest, recovery_by_training
from atlas_cli.audit.attacks._sequences import SHARPNESS, Standard, padded, train
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Step, Tokens, tokens_of
from atlas_cli.audit.figures import Figure
from atlas_cli.seeding import forked
from atlas_cli.wire.messages import FeatureGradients, Features

TEXTS = 64  # attacked, as each is matched step by step
EPOCHS, WIDTH, DRAWS = 12, 256, 3
BETA, RATE, TEMPERATURE = 0.85, 0.09, 1.2  # of the backward match, as the authors' code has them
STEPS = 100  # theirs are 18, which cannot turn an expectation that is sure and wrong


class Attack(BaseAttack):
    """Recovers tokens by an inverter and by matching gradients and activations."""

    channel = "activations"
    knows = (
        "the frozen model, the adapters delivered, the defence, other text of the task; of a language model whose "
        "labels stay, the features sent and their gradients"
    )

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered."""

        def learn(_: Step, began: int, material: Tokens) -> Guess:
            reader = fit(material, evidence.embedding)

            def guess(step: Step, hidden: Tensor, texts: Tensor) -> Tensor:
                vectors = reader.vectors(hidden, texts)
                ids = nearest(vectors, evidence.embedding)
                starts = [ids]
                if (told := labels_told(evidence, step, vectors, texts)) is not None:
                    starts.insert(0, torch.where(told < 0, ids, told))
                party = evidence.party(step.client, step.round if began == step.round else began)
                return Matcher(party).best(hidden, texts, starts)

            return guess

        return recovery_by_training(self, evidence, learn, most=TEXTS, draws=DRAWS)


def fit(material: Tokens, embedding: Tensor) -> Reader:
    """Train an inverter on the attacker's own texts."""
    with forked(0, "bisr"):
        reader = Reader(material, embedding)
        train(reader, reader.standard(material.hidden), material, embedding, EPOCHS)
    return reader


class Reader(nn.Module):
    """A GRU in both directions from activations to directions of embeddings.

    Args:
        material: the attacker's own tokens.
        embedding: (V, D) of the model.
    """

    def __init__(self, material: Tokens, embedding: Tensor) -> None:
        super().__init__()
        self.standard, size = Standard(material.hidden), material.hidden.shape[1]
        self.gru = nn.GRU(size, WIDTH, batch_first=True, bidirectional=True)
        self.out = nn.Linear(size + 2 * WIDTH, embedding.shape[1])

    def forward(self, read: Tensor, mask: Tensor) -> Tensor:
        """Directions (B, T, D) from standardised activations (B, T, D) and the mask (B, T) bool."""
        packed = nn.utils.rnn.pack_padded_sequence(read, mask.sum(1), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=read.shape[1])
        return self.out(torch.cat([read, states], dim=2))

    @torch.no_grad()
    def vectors(self, hidden: Tensor, texts: Tensor) -> Tensor:
        """Directions (N, D) for activations (N, D) and the text of each (N,)."""
        read, mask = padded(self.standard(hidden), texts)
        return self(read, mask)[mask]


def labels_told(evidence: Evidence, step: Step, vectors: Tensor, texts: Tensor) -> Tensor | None:
    """What the gradients of features tell of a step's tokens (N,): ids, -1 where nothing; None if there are none.

    Args:
        vectors: directions (N, D) of what the inverter expects; ``texts``: the text of each (N,).
    """
    base, group = evidence.federation.base, evidence.federation.group_of(step.client)
    causal = evidence.federation.data[group].task.causal_only
    if not causal or base.lm_head is None or FeatureGradients not in step.messages or Features not in step.messages:
        return None
    sent = evidence.decoded(step, FeatureGradients)
    features = tokens_of(evidence.decoded(step, Features).features, step.batch, 0).hidden
    gradients = tokens_of(sent.gradients, step.batch, 0).hidden * float(sent.count)
    follows = torch.cat([texts[1:] == texts[:-1], torch.tensor([False])])  # the label of a token is the one after it
    told = follows & (gradients.norm(dim=1) > 0)
    ids = torch.full_like(texts, -1)
    if told.any():
        expected = SHARPNESS * F.normalize(vectors.roll(-1, 0)[told], dim=1) @ F.normalize(evidence.embedding, dim=1).T
        ids[told.nonzero()[:, 0] + 1] = soft_labels(base.lm_head, features[told], gradients[told], expected).argmax(1)
    return ids


def soft_labels(lm_head: nn.Module, features: Tensor, gradients: Tensor, expected: Tensor) -> Tensor:
    """Logits (n, V) of labels with which cross-entropy has such gradients (n, D) at features (n, D).

    Args:
        expected: the logits (n, V) to begin with.
    """
    weights = lm_head.weight.detach().float()  # type: ignore[operator]
    with torch.no_grad():
        logits = lm_head(features.to(weights.dtype)).float()
        drawn = logits.softmax(1) @ weights - gradients  # W^T y
        scale = drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found = (expected / TEMPERATURE).clone().requires_grad_()
    optimizer = torch.optim.Adam([found], RATE)
    for _ in range(STEPS):
        apart = (found.softmax(1) @ weights - drawn) / scale
        optimizer.zero_grad()
        (BETA * apart.square().sum() + (1 - BETA) * apart.abs().sum()).backward()
        optimizer.step()
    return found.detach()
