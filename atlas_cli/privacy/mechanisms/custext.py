"""CusText (Chen et al., 2207.01193): each token is replaced by one of a set of K near ones, before training.

    p(y | x) ~ exp(epsilon u(x, y) / 2),  u = -(|e(x) - e(y)| - min) / (max - min) in [-1, 0]    over y in the set of x

with e the token embedding of the model that is trained, least and largest distance those within the set. Sets are made
by the paper's aggressive mapping: in the order of the vocabulary, a token that has none forms one with its K - 1
nearest that have none; what is left over in the end joins the last. So sets are disjoint, depend on no data, and two
tokens of one set are told apart by epsilon at most.

**Two tokens of different sets are told apart for certain: between these no epsilon holds.** Neighbours differ in the
words of one example, each of which stays within its set; the account composes epsilon over the tokens of the longest
example, as T uses of a mechanism of a pure epsilon (Kairouz et al., 1311.0776, Theorem 3.3). Sets of the K nearest of
each token by itself, which overlap, would give no epsilon at all: the set tells the token.

What is replaced, what stays (special tokens, labels, lengths) and what it costs is as with ``santext``, but that
distributions have K numbers; making the sets takes some |V|^2 D / K multiplications once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.config.schema.privacy import CusTextConfig
from atlas_cli.privacy.mechanisms._replacement import TokenReplacement, distances
from atlas_cli.privacy.mechanisms.contract import BaseMechanism

_AT_ONCE = 32  # tokens whose distances to all others are computed together


class Mechanism(BaseMechanism):
    """Replaces tokens by others of a small set of near ones."""

    channel = "activations"
    unit = "words of an example (a row with all its windows), each exchanged within its set of K tokens"
    protects = (
        "which token of its set a token of a training example is, from everybody; not the set, the length, the label or"
        " special tokens, which stay"
    )
    Options = CusTextConfig


class CusText(TokenReplacement):
    """The mechanism over the tokens of a model.

    Args:
        options: K and epsilon.
        vectors_VD, ids_M: as ``TokenReplacement``.

    Attributes:
        set_M: the number of each token's set.
        members: (sets, most): the places of the tokens of each set; -1 where it has fewer than the last.
    """

    key = "custext"

    def __init__(self, options: CusTextConfig, vectors_VD: Tensor, ids_M: Tensor) -> None:
        super().__init__(vectors_VD, ids_M)
        self.epsilon = self.token_epsilon = options.epsilon
        self.set_M = disjoint_sets(self.vectors_MD, options.tokens)
        sizes = torch.bincount(self.set_M)
        column = torch.cat([torch.arange(int(size)) for size in sizes])
        ordered = self.set_M.argsort(stable=True)
        self.members = torch.full((len(sizes), int(sizes.max())), -1)
        self.members[self.set_M[ordered], column] = ordered

    def probabilities(self, places_B: Tensor) -> tuple[Tensor, Tensor]:
        """Over the tokens of each one's set."""
        sets_B = self.set_M[places_B]
        members_BK = self.members[sets_B]
        there_BK = members_BK >= 0
        near_BKD = self.vectors_MD[members_BK.clamp(min=0)]
        far_BK = torch.linalg.vector_norm(near_BKD - self.vectors_MD[places_B][:, None], dim=2)
        far_BK = torch.where(there_BK, far_BK, 0.0)
        most_B = far_BK.amax(1, keepdim=True)  # the least is that of the token itself, 0
        utility_BK = -far_BK / most_B.clamp(min=torch.finfo(torch.float64).tiny)
        weights_BK = (self.epsilon / 2 * utility_BK).masked_fill(~there_BK, -torch.inf).softmax(1)
        return weights_BK, members_BK.clamp(min=0)


def disjoint_sets(vectors_MD: Tensor, size: int) -> Tensor:
    """The number of each vector's set, (M,): of ``size`` near vectors, the last of up to twice as many."""
    found_M = torch.full((len(vectors_MD),), -1)
    left, free, count = torch.arange(len(vectors_MD)), vectors_MD, 0
    while len(left):
        far = distances(free[:_AT_ONCE], free, free.square().sum(1))  # of the next in order, to all that have no set
        has = torch.zeros(len(left), dtype=torch.bool)
        for first in range(len(far)):
            if has[first]:
                continue
            if int((~has).sum()) < 2 * size:
                members = ~has
            else:
                far[first, has] = torch.inf
                far[first, first] = -1.0  # its own place, also beside equal ones
                members = far[first].topk(size, largest=False).indices
            found_M[left[members]] = count
            has[members] = True
            count += 1
        left, free = left[~has], free[~has]
    return found_M
