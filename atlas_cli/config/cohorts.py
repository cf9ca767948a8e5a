"""How many clients take part at a time."""

from __future__ import annotations


def cohort_size(share: float, clients: int) -> int:
    """How many clients of a group take part in a round: a share of them, at least one."""
    return max(1, round(share * clients))
