"""Replacement of tokens before the client half, each by itself: what the mechanisms that do it share.

Tokens are drawn once for an example, before training, so that epochs, rounds and the loss of messages cost nothing
more. Special tokens (of the tokenizer: classification, separation, padding, end) stay as they are and are never drawn;
labels, segments and the number of tokens stay, too. All is computed in float64 on the CPU, so that engines and numbers
of threads agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from atlas_cli.seeding import numpy_generator
from atlas_cli.tasks.contract import Feature

ROWS = 128  # distinct tokens whose distributions are held at once


class TokenReplacement(ABC):
    """A distribution over tokens for each token.

    Args:
        vectors_VD: the token embedding of the model, which everybody knows.
        ids_M: the tokens that may be replaced, and drawn: those of the tokenizer but the special ones, sorted.

    Attributes:
        key: of the mechanism in the config.
        token_epsilon: epsilon of one token, between any two that the mechanism's ``unit`` allows; pure, so delta is 0.
    """

    key: ClassVar[str]
    token_epsilon: float

    def __init__(self, vectors_VD: Tensor, ids_M: Tensor) -> None:
        self.ids_M = ids_M
        self.places_V = torch.full((len(vectors_VD),), -1).index_put((ids_M,), torch.arange(len(ids_M)))
        vectors_MD = vectors_VD.detach().cpu()[ids_M].double()
        self.vectors_MD = vectors_MD - vectors_MD.mean(0)  # shorter ones, so that distances are exact to more digits
        self.squares_M = self.vectors_MD.square().sum(1)

    @abstractmethod
    def probabilities(self, places_B: Tensor) -> tuple[Tensor, Tensor]:
        """The distributions (B, K) for tokens at places (B,) of ``ids_M``, and the places (B, K) that they are over.

        Rows need not sum to 1. Places may be (1, K), where they are the same for all.
        """

    def facts(self) -> dict[str, float]:
        """What the manifest says of it besides its options."""
        return {"epsilon_per_token": self.token_epsilon}

    def draw(self, ids_N: Tensor, uniform_N: Tensor) -> Tensor:
        """What takes the place of tokens (N,), by one number in [0, 1) each, float64."""
        found_N, places_N = ids_N.clone(), self.places_V[ids_N]
        distinct, owner_N = places_N.unique(return_inverse=True)
        order_N = owner_N.argsort(stable=True)
        ends = torch.bincount(owner_N, minlength=len(distinct)).cumsum(0).tolist()
        first = int((distinct < 0).sum())  # special tokens have no place
        for start in range(first, len(distinct), ROWS):
            rows_B = distinct[start : start + ROWS]
            chosen = order_N[ends[start - 1] if start else 0 : ends[start + len(rows_B) - 1]]
            weights_BK, candidates = self.probabilities(rows_B)
            below_BK = weights_BK.cumsum(1)
            below_BK /= below_BK[:, -1:]
            row, size = owner_N[chosen] - start, below_BK.shape[1]
            shelves = (below_BK + torch.arange(len(rows_B))[:, None]).flatten()  # one ascending row
            column = torch.searchsorted(shelves, row + uniform_N[chosen], right=True) - row * size
            column = column.clamp(0, size - 1)
            found_N[chosen] = self.ids_M[candidates.expand(len(rows_B), -1)[row, column]]
        return found_N

    def replaced(self, features: Sequence[Feature], seed: int, *whose: str | int) -> list[Feature]:
        """Features with other tokens; ``original_ids`` has what they were.

        Args:
            whose: whose features they are; equal ones draw equal numbers.
        """
        lengths = [len(feature["input_ids"]) for feature in features]
        ids = np.array([token for feature in features for token in feature["input_ids"]], dtype=np.int64)
        uniform_N = numpy_generator(seed, "privacy-tokens", *whose).random(len(ids))
        drawn_N = self.draw(torch.from_numpy(ids), torch.from_numpy(uniform_N)).split(lengths)
        return [
            Feature(**{**feature, "input_ids": drawn.tolist(), "original_ids": feature["input_ids"]})
            for feature, drawn in zip(features, drawn_N, strict=True)
        ]


def distances(one_BD: Tensor, other_MD: Tensor, squares_M: Tensor) -> Tensor:
    """Euclidean distances (B, M) of float64 vectors; ``squares_M``: the squared norms of the others."""
    found_BM = (one_BD * -2) @ other_MD.T
    return found_BM.add_(one_BD.square().sum(1)[:, None]).add_(squares_M).clamp_(min=0).sqrt_()
