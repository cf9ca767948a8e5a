"""How far what is decoded of messages is from what was encoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lost:
    """Sums over the numbers of messages: of squares before encoding, of squares after decoding, of products of the two,
    and of squared differences; and how many numbers they are."""

    before: float = 0.0
    after: float = 0.0
    product: float = 0.0
    difference: float = 0.0
    numbers: int = 0

    @classmethod
    def of(cls, before: Tensor, after: Tensor, largest: float) -> Lost:
        """The sums of one message.

        Args:
            largest: of the magnitudes before, which numbers are divided by, as squares of small ones would be 0.
        """
        size = largest or 1.0
        one, other = (each.float().flatten() / size for each in (before, after))
        squares, after_squares, product = (
            float(torch.dot(a, b)) * size**2 for a, b in ((one, one), (other, other), (one, other))
        )
        off = other.sub_(one)  # in its place, as a party has few copies of a message to spare
        return cls(squares, after_squares, product, float(torch.dot(off, off)) * size**2, before.numel())

    def __add__(self, other: Lost) -> Lost:
        return Lost(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def figures(self) -> dict[str, float | None]:
        """The norm of the difference by that of what was encoded, and the cosine of the two; None for zeros."""
        norms = math.sqrt(self.before) * math.sqrt(self.after)
        return {
            "relative_error": math.sqrt(self.difference / self.before) if self.before else None,
            "cosine": max(-1.0, min(1.0, self.product / norms)) if norms else None,
        }
