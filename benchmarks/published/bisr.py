"""BiSR: tokens from activations, and what noise and NoPeek hide of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import cache

from paired import Interval, paired
from privacy import CASES, run_case

from published.claim import Claim, Figure, Paper
from published.ranked import output

PAPER = Paper("BiSR (PrivPair)", "2409.00960", "https://arxiv.org/abs/2409.00960")
# of benchmarks/privacy.py; the paper's strengths could not be read
WAYS = {"none": (None, "-"), "noise": ("activations", "noise 0.05"), "NoPeek": ("nopeek", "weight 10")}
PRINTED = ("0.9991", "0.9991", "0.9428")
SEEDS = 3
SETTING = f"""pretrained MiniLM cut at 3, 960 questions of TREC, six clients, three rounds; the best of nearest
embedding, ridge and network inverters; noise 0.05, NoPeek weight 10, {SEEDS} seeds"""
CHANGED = """Inverters are those of atlas, without the refinement of the paper; the share of tokens at their places in
place of ROUGE-1, which does not ask for places. Strengths of noise and NoPeek could not be read."""


def claims() -> Iterator[Claim]:
    """What an attacker with a trained inverter finds."""
    yield Claim(
        "share of tokens found: no defence, noise on activations, NoPeek",
        where="Banking77, ROUGE-1",
        setting=SETTING,
        changed=CHANGED,
        figures=tuple(Figure(name, text) for name, text in zip(WAYS, PRINTED, strict=True)),
        interval=0.05,
        ranked=True,
        slow=True,
        found="Without a defence nearly all tokens are found, as there. NoPeek of this weight hides 0.3 points of them "
        "from the best attack, and noise 2.3: the other way round. Strengths are not the paper's. Of [those measured]"
        "(privacy.md), noise of 0.05 is the least and hides more than the paper's (of 0.2: more than half), and NoPeek "
        "of weight 100 hides 3 % at most, less than the paper's: so noise there is weaker than 0.05, and NoPeek hides "
        "from its attacks what a network that knows of it reads here.",
        measure=lambda: [statistics.fmean(recoveries(name)) for name in WAYS],
    )
    yield Claim(
        "NoPeek hides more than noise, in points of the tokens found",
        where="Banking77, ROUGE-1: differences of its figures",
        setting=SETTING,
        changed=CHANGED,
        figures=(Figure("NoPeek less none", "-5.63"), Figure("noise less NoPeek", "5.63")),
        slow=True,
        found="The figures above say why.",
        measure=lambda: [difference("NoPeek", "none"), difference("noise", "NoPeek")],
    )


def difference(of: str, against: str) -> Interval:
    """Of what the best attack finds, in points, within seeds."""
    return paired(*([100 * share for share in recoveries(name)] for name in (of, against)))


@cache
def recoveries(name: str) -> tuple[float, ...]:
    """The best attack's, by seed."""
    (case,) = (each for each in CASES if (each.mechanism, each.strength) == WAYS[name])
    return tuple(_found(run_case(case, seed, output(), ()).recovery) for seed in range(SEEDS))


def _found(share: float | None) -> float:
    assert share is not None, "an attack on tokens was made"
    return share
