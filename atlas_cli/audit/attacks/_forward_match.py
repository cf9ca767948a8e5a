"""Matching of activations: the texts of which a client half, with the adapters delivered, makes what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.audit.attacks._recovery import nearest
from atlas_cli.audit.attacks._sequences import padded
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.models.halves.split import run_half

STEPS, RATE, DECAY = 30, 0.05, 0.01  # of AdamW; the rate in units of an embedding's root mean square
SAME = 1e-4  # the mean of 1 - cos below which a guess is what was sent: rounding of float32 leaves less


class Matcher:
    """The client half of a party, as a function of input embeddings; without the party's noise and dropout.

    Args:
        party: a client with the adapters that were delivered.
    """

    def __init__(self, party: SplitClient) -> None:
        model: Any = party.base.model
        embedding = model.get_input_embeddings()
        self._party = party
        self._dtype = embedding.weight.dtype
        with torch.no_grad():
            ids = torch.arange(embedding.num_embeddings, device=embedding.weight.device)
            self._table = embedding(ids).float()  # as the blocks get them, of models that scale their embeddings
        party.adapters.train(False)

    def best(self, hidden: Tensor, texts: Tensor, starts: Sequence[Tensor]) -> Tensor:
        """Token ids (N,) of what fits best of ``starts`` (N,) each, and of what is found from the best of them.

        Args:
            hidden: what was sent, (N, D); ``texts``: the text of each (N,).
        """
        sent, mask = padded(hidden, texts)
        guesses, apart = self._better([padded(start, texts)[0] for start in starts], sent, mask)
        if (left := apart > SAME).any():
            found = self._search(guesses[left], sent[left], mask[left])
            guesses[left] = self._better([guesses[left], found], sent[left], mask[left])[0]
        return guesses[mask]

    def _better(self, several: Sequence[Tensor], sent: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of each text the guess (B, T) that fits best, and how far it is from what was sent (B,)."""
        with torch.no_grad():
            apart = torch.stack([self._apart(self._table[ids], sent, mask).sum(1) / mask.sum(1) for ids in several])
        least, chosen = apart.min(0)
        return torch.stack(list(several))[chosen, torch.arange(len(mask))], least

    def _search(self, guesses: Tensor, sent: Tensor, mask: Tensor) -> Tensor:
        """The tokens (B, T) nearest to the embeddings that fit best, from those of ``guesses`` on."""
        e = self._table[guesses].clone().requires_grad_()
        optimizer = torch.optim.AdamW([e], RATE * float(self._table.square().mean().sqrt()), weight_decay=DECAY)
        for _ in range(STEPS):
            (gradient,) = torch.autograd.grad(self._apart(e, sent, mask).sum(), e)
            e.grad = gradient
            optimizer.step()
        return nearest(e.detach().flatten(0, 1), self._table).view_as(guesses)

    def _apart(self, embedded: Tensor, sent: Tensor, mask: Tensor) -> Tensor:
        """1 - cos(f(e), h) of each token (B, T), 0 on padding, for embeddings (B, T, D)."""
        party = self._party
        with party.attached():
            made = run_half(party.half, mask.long(), inputs_embeds=embedded.to(self._dtype)).float()
        return (1 - F.cosine_similarity(made, sent, dim=2)) * mask
