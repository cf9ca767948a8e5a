"""SanText and SanText+ (Yue et al., 2106.01221): each token is replaced by one drawn by its distance, before training.

    p(y | x) ~ exp(-epsilon |e(x) - e(y)| / 2)    over all tokens y of the tokenizer but the special ones

with e the token embedding of the model that is trained. Neighbours differ in the words of one example, whose length is
known. For two tokens the log ratio of probabilities is at most epsilon |e(x) - e(x')| (metric differential privacy,
Chatzikokolakis et al., 2013), so for any two at most epsilon times D, an upper bound of all distances: the sum of the
two largest distances from the mean of all. The account composes that over the tokens of the longest example (all
windows together): T uses of a mechanism of a pure epsilon (Kairouz et al., 1311.0776, Theorem 3.3). It is in the
hundreds or more for an epsilon that leaves anything to learn, as that of ``activations`` is.

SanText+ always replaces sensitive tokens, as above, and others with probability p alone, else they stay. Then epsilon
of a token is at most

    ln(exp(epsilon D) + (1 - p) / p max(exp(epsilon D), |V| exp(epsilon D / 2)))

Sensitive are the rarest, by the order of the tokenizer's vocabulary, in which frequent ones come first. The paper
counts words in the data, which tells of it.

Local tests, group tests and texts in ``atlas predict`` and ``atlas evaluate`` are replaced as well, since their
activations are sent. Tokens are pieces of words for most tokenizers, and are drawn one by one: what comes out is no
text that anybody wrote. It costs 2 |V| D multiplications for each distinct token once, before training, and 8 |V| D
bytes meanwhile; a client needs the whole embedding for it. No byte more is sent, and a step is what it is without.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atlas_cli.config.schema.privacy import SanTextConfig
from atlas_cli.privacy.mechanisms._replacement import TokenReplacement, distances
from atlas_cli.privacy.mechanisms.contract import BaseMechanism


class Mechanism(BaseMechanism):
    """Replaces tokens by others, the likelier the nearer their embeddings are."""

    channel = "activations"
    unit = "words of an example (a row with all its windows)"
    protects = (
        "the words of a training example, from everybody; not its length, its label or its special tokens, which stay"
    )
    Options = SanTextConfig


class SanText(TokenReplacement):
    """The mechanism over the tokens of a model.

    Args:
        options: epsilon, and of SanText+ the two shares.
        vectors_VD, ids_M: as ``TokenReplacement``.
    """

    key = "santext"

    def __init__(self, options: SanTextConfig, vectors_VD: Tensor, ids_M: Tensor) -> None:
        super().__init__(vectors_VD, ids_M)
        self.epsilon, self.others = options.epsilon, options.other_probability
        frequent = 0 if options.sensitive_share is None else round((1 - options.sensitive_share) * len(ids_M))
        self.other_M = torch.arange(len(ids_M)) < frequent
        radii = self.squares_M.sqrt().topk(2).values
        self.largest_distance = float(radii.sum())
        self.token_epsilon = self.epsilon * self.largest_distance
        if self.others is not None and frequent:
            kept = max(self.token_epsilon, math.log(len(ids_M)) + self.token_epsilon / 2)
            kept += math.log((1 - self.others) / self.others)
            self.token_epsilon = float(torch.tensor([self.token_epsilon, kept], dtype=torch.float64).logsumexp(0))

    def probabilities(self, places_B: Tensor) -> tuple[Tensor, Tensor]:
        """Over all tokens."""
        far_BM = distances(self.vectors_MD[places_B], self.vectors_MD, self.squares_M)
        rows = torch.arange(len(places_B))
        far_BM[rows, places_B] = 0.0  # whatever rounding made of it
        found_BM = (far_BM * (-self.epsilon / 2)).softmax(1)
        if self.others is not None:
            other_B = self.other_M[places_B]
            found_BM[other_B] *= self.others
            found_BM[rows[other_B], places_B[other_B]] += 1 - self.others
        return found_BM, torch.arange(len(self.ids_M))[None]

    def facts(self) -> dict[str, float]:
        """With the upper bound of distances, in whose unit ``epsilon`` is."""
        return {**super().facts(), "largest_distance": self.largest_distance}
