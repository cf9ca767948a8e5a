"""Token recovery by a small transformer that reads all activations of a text at once, trained on other text.

Deep activations mix the tokens of a text, and noise hides each of them; what stands around helps with both. Two blocks
of self-attention, in both directions, correct the guess of a ridge regression token by token; cross-entropy over the
tokens of the training text, whose logits are cosines with their embeddings. Guesses are over the whole vocabulary.
Where activations get noise, the attacker's texts are sent several times, with noise drawn anew.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas_cli.audit.attacks import ridge_inverter
from atlas_cli.audit.attacks._recovery import Guess, nearest, recovery_by_training
from atlas_cli.audit.attacks._sequences import Standard, padded, train
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Step, Tokens
from atlas_cli.audit.figures import Figure
from atlas_cli.seeding import forked

EPOCHS, WIDTH, BLOCKS, HEADS, DROPOUT, DRAWS = 12, 256, 2, 4, 0.1, 3


class Attack(BaseAttack):
    """Recovers tokens by a small transformer."""

    channel = "activations"
    knows = "the frozen model, the adapters delivered, the defence, other text of the task"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered."""

        def learn(_: Step, began: int, material: Tokens) -> Guess:
            reader = fit(material, evidence.embedding)

            def guess(_: Step, hidden: Tensor, texts: Tensor) -> Tensor:
                return nearest(reader.vectors(hidden, texts), evidence.embedding)

            return guess

        return recovery_by_training(self, evidence, learn, draws=DRAWS)


def fit(material: Tokens, embedding: Tensor) -> Reader:
    """Train a reader on the attacker's own texts."""
    with forked(0, "decoder-inverter"):
        reader = Reader(material, embedding)
        train(reader, reader.read(material.hidden), material, embedding, EPOCHS)
    return reader


class Reader(nn.Module):
    """A transformer from activations to directions of embeddings; untrained, it gives those of ridge regression.

    Args:
        material: the attacker's own tokens.
        embedding: (V, D) of the model.
    """

    def __init__(self, material: Tokens, embedding: Tensor) -> None:
        super().__init__()
        self._standard, self._ridge = Standard(material.hidden), ridge_inverter.fit(material, embedding)
        longest = int(torch.unique_consecutive(material.texts, return_counts=True)[1].max())
        self.places = nn.Embedding(longest, WIDTH)
        self.into = nn.Linear(material.hidden.shape[1], WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, DROPOUT, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, BLOCKS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, embedding.shape[1])
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def read(self, hidden: Tensor) -> Tensor:
        """What it reads of activations (N, D): the same standardised, and beside it the guess of ridge regression."""
        return torch.cat([self._standard(hidden), F.normalize(self._ridge(hidden), dim=1)], dim=1)

    def forward(self, read: Tensor, mask: Tensor) -> Tensor:
        """Directions (B, T, D) from what it reads (B, T, 2 D) and the mask (B, T) bool."""
        hidden, guess = read.split([self.into.in_features, read.shape[2] - self.into.in_features], dim=2)
        places = torch.arange(read.shape[1]).clamp_max(self.places.num_embeddings - 1)
        mixed = self.blocks(self.into(hidden) + self.places(places), src_key_padding_mask=~mask)
        return guess + self.out(mixed)

    @torch.no_grad()
    def vectors(self, hidden: Tensor, texts: Tensor) -> Tensor:
        """Directions (N, D) for activations (N, D) and the text of each (N,)."""
        read, mask = padded(self.read(hidden), texts)
        return self(read, mask)[mask]
