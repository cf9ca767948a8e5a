"""Norms of what clients send: a diagnostic, and no measure of privacy."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from torch import Tensor

from atlas_cli.privacy.evidence import Evidence
from atlas_cli.privacy.figures import Inapplicable


def update_norms(evidence: Evidence) -> list[dict[str, Any]]:
    """For each recorded round: norms of updates as they were sent, clipped and noisy where a mechanism made them so.

    An update is what a client sent less what it was delivered, over all tensors of its adapters (A and B as they are).
    ``of_median``: the largest by the median, which a clip would bring to 1 or less where it binds for all.
    """
    rounds = []
    for number in sorted({m.round for m in evidence.messages if (m.kind, m.direction) == ("adapters", "up")}):
        norms = {}
        for message in evidence.messages:
            if (message.round, message.kind, message.direction) != (number, "adapters", "up"):
                continue
            try:
                before = evidence.party(message.client, number).adapters.state()
            except Inapplicable:
                continue
            norms[message.client] = _norm(message.tensors(), before)
        if norms:
            middle = median(norms.values())
            largest = max(norms.values()) / middle if middle > 0 else None
            rounds.append({"round": number, "norms": norms, "median": middle, "of_median": largest})
    return rounds


def _norm(sent: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((value - before[name].cpu()).double().square().sum()) for name, value in sent.items()))
