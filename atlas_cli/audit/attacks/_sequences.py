"""Texts as padded sequences, for attacks that read a token with those around it; and training of what reads them."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from atlas_cli.audit.attacks._recovery import nearest
from atlas_cli.audit.evidence import Tokens

BATCH, RATE, SHARPNESS = 16, 1e-3, 20.0  # texts a step, of Adam; logits are so many times cosines


def padded(values: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences (B, T, ...) and their mask (B, T) bool, of values (N, ...) in the order of ``texts`` (N,)."""
    lengths = torch.unique_consecutive(texts, return_counts=True)[1].tolist()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return pad_sequence(values.split(lengths), batch_first=True), mask


class Standard:
    """Activations less their mean, by their standard deviation, element by element.

    Args:
        hidden: (N, D) of the attacker's own texts.
    """

    def __init__(self, hidden: Tensor) -> None:
        self.mean, self.scale = hidden.mean(0), hidden.std(0, correction=0).clamp_min(1e-6)

    def __call__(self, hidden: Tensor) -> Tensor:
        """The standardised activations."""
        return (hidden - self.mean) / self.scale


def train(reader: nn.Module, hidden: Tensor, material: Tokens, embedding: Tensor, epochs: int) -> None:
    """Train a reader of sequences by the cross-entropy over the tokens of the attacker's own text.

    The parameters kept are those of the epoch, or of before training, that finds most tokens of the last fifth of the
    texts, one at least, which is not trained on; a single text is both. It is left in evaluation mode.

    Args:
        reader: gives directions of embeddings (B, T, D) for sequences (B, T, ...) and their mask.
        hidden: (N, ...), what it reads of the tokens of ``material``.
    """
    known, targets = material.ids.unique(return_inverse=True)
    rows = F.normalize(embedding[known], dim=1)
    sequences, mask = padded(hidden, material.texts)
    answers, ids = padded(targets, material.texts)[0], padded(material.ids, material.texts)[0]
    held = max(len(mask) // 5, 1)
    own = max(len(mask) - held, 1)
    optimizer = torch.optim.Adam(reader.parameters(), RATE)

    @torch.no_grad()
    def found() -> float:
        reader.eval()
        real = mask[-held:]
        guesses = nearest(reader(sequences[-held:], real)[real], embedding)
        return float((guesses == ids[-held:][real]).double().mean())

    best, state = found(), copy.deepcopy(reader.state_dict())
    for _ in range(epochs):
        reader.train()
        for chosen in torch.randperm(own).split(BATCH):
            real = mask[chosen, : int(mask[chosen].sum(1).max())]
            cosines = F.normalize(reader(sequences[chosen, : real.shape[1]], real)[real], dim=1) @ rows.T
            optimizer.zero_grad()
            F.cross_entropy(SHARPNESS * cosines, answers[chosen, : real.shape[1]][real]).backward()
            optimizer.step()
        if (now := found()) > best:
            best, state = now, copy.deepcopy(reader.state_dict())
    reader.load_state_dict(state)
    reader.eval()
