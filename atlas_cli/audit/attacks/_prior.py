"""How likely an attacker takes a text to be, before it sees anything of it: the mean log-loss of its tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.split import run_half
from atlas_cli.tasks.contract import Feature, original_ids

Prior = Callable[[Tensor, Tensor], Tensor]  # (B,) in nats a token, from token ids and mask, (B, T) each
SEEN = 1.0  # a bigram counts as if the unigram distribution had been drawn so many times beside what was seen


class Bigrams:
    """A bigram model of some texts, smoothed by their unigrams, which are smoothed by one of each token.

    Args:
        texts: the attacker's own; vocabulary: the number of tokens.
    """

    def __init__(self, texts: Sequence[Feature], vocabulary: int) -> None:
        rows = [original_ids(text) for text in texts]
        self._one = Counter(token for row in rows for token in row)
        self._two = Counter(pair for row in rows for pair in pairwise(row))
        self._first = Counter(token for row in rows for token in row[:-1])
        self._total = sum(self._one.values()) + vocabulary

    def probability(self, token: int, after: int | None = None) -> float:
        """Of a token, by itself or after another."""
        alone = (self._one[token] + 1) / self._total
        if after is None:
            return alone
        return (self._two[after, token] + SEEN * alone) / (self._first[after] + SEEN)

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean log-loss (B,) of texts (B, T), whose first token is taken by itself."""
        losses = []
        for row, real in zip(ids.tolist(), mask.bool().tolist(), strict=True):
            text = [token for token, there in zip(row, real, strict=True) if there]
            before = [None, *text[:-1]]
            loss = -sum(math.log(self.probability(t, b)) for t, b in zip(text, before, strict=True))
            losses.append(loss / max(len(text), 1))
        return torch.tensor(losses)


def language_model(base: FrozenBase) -> Prior:
    """The frozen language model that all parties have, whose first token is taken for given."""
    lm_head = base.lm_head
    assert lm_head is not None

    @torch.no_grad()
    def prior(ids: Tensor, mask: Tensor) -> Tensor:
        device = next(base.model.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        hidden = run_half(base.model, mask.long(), input_ids=ids)
        logits = lm_head(hidden[:, :-1]).float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        real = mask[:, 1:].float()
        return ((losses * real).sum(1) / real.sum(1).clamp_min(1)).cpu()

    return prior
