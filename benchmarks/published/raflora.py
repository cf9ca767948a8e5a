"""raFLoRA: a mean over all clients loses what low ranks cannot hold, and a mean by component does not."""

from __future__ import annotations

from collections.abc import Iterator

from rank_collapse import RANKS, beyond, collapse, spectrum

from published.claim import Claim, Figure, Paper

PAPER = Paper("raFLoRA", "2602.13486", "https://arxiv.org/abs/2602.13486", secondary=True)
ROUNDS = 4
SETTING = (
    "clients of ranks 2, 2, 2, 2, 4, 4, 8, 16 and equal weight, one layer of 48 x 64, singular values from 1 to 0.6"
)
CHANGED = (
    "Nobody trains, so that all that is lost is lost by the merge; the theorem is about the mean of updates, which is "
    "left of a round then."
)
# of the theorem, with sigma_j multiplied in each round by the share of the clients that have component j
ENERGIES = ("0.814", "0.258", "0.059", "0.014", "0.0035")


def claims() -> Iterator[Claim]:
    """Collapse, and none."""
    names = tuple(f"round {number}" for number in range(ROUNDS + 1))
    yield Claim(
        "energy beyond rank 2 falls geometrically in a mean over all clients",
        where="theorem on rank collapse",
        setting=SETTING + ", flexlora",
        changed=CHANGED,
        figures=tuple(Figure(name, energy) for name, energy in zip(names, ENERGIES, strict=True)),
        ranked=True,
        measure=lambda: collapse("flexlora", RANKS, ROUNDS),
    )
    yield Claim(
        "a mean over those that have a component keeps it",
        where="its method",
        setting=SETTING + ", raflora",
        changed=CHANGED,
        figures=tuple(Figure(name, f"{beyond(spectrum(16), 2):.3f}") for name in names),
        measure=lambda: collapse("raflora", RANKS, ROUNDS),
    )
