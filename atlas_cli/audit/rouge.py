"""ROUGE-L of recovered token sequences (Lin 2004, section 3.1): how much of a text was found, in its order."""

from __future__ import annotations

from collections.abc import Sequence


def lcs_length(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common subsequence, by bits (Hyyro 2004): a 0 in ``row`` is a step of its length."""
    places: dict[int, int] = {}
    for place, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << place
    whole = (1 << len(one)) - 1
    row = whole
    for token in other:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & whole
    return len(one) - row.bit_count()


def rouge_l(found: Sequence[int], truth: Sequence[int]) -> float:
    """The harmonic mean of the shares of ``found`` and of ``truth`` that a longest common subsequence has; 0 to 1."""
    if not found or not truth:
        return float(len(found) == len(truth))
    return 2 * lcs_length(found, truth) / (len(found) + len(truth))
