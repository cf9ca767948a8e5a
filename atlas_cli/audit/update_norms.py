"""Norms of the updates that clients send, before and after mechanisms: a diagnostic, not a measure of privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from torch import Tensor

from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.audit.uploads import uploaded
from atlas_cli.wire.messages import AdapterUpdate


def update_norms(evidence: Evidence) -> list[dict[str, Any]]:
    """The norms of updates as sent in each recorded round, after clipping and noise.

    An update is what a client sent minus what it was delivered, over all tensors of its adapters (A and B unscaled).
    ``of_median`` is the largest norm divided by the median, which is 1 if a clip binds for all; ``unknown`` lists
    the clients that are left out, with the reason.
    """
    rounds = []
    for number in sorted({m.round for m in evidence.messages if m.type is AdapterUpdate}):
        norms, unknown = {}, {}
        for message in evidence.messages:
            if message.round != number or message.type is not AdapterUpdate:
                continue
            try:
                before = evidence.party(message.client, number).adapters.state()
                after = uploaded(evidence.federation, message, before)
            except Inapplicable as reason:
                unknown[message.client] = str(reason)
                continue
            norms[message.client] = _norm(after, before)
        if norms:
            middle = median(norms.values())
            largest = max(norms.values()) / middle if middle > 0 else None
            figures = {"norms": norms, "median": middle, "of_median": largest}
            rounds.append({"round": number, **figures, "unknown": unknown})
    return rounds


def compared_norms(evidence: Evidence) -> list[dict[str, Any]]:
    """The norms before and after clipping and noise (``Norms``) of the rounds whose messages were recorded.

    There is a row for each round, task group and mechanism that clips. They come from the records of the run, not
    from its messages, so an eavesdropper does not have them.
    """
    rounds = {m.round for m in evidence.messages if m.direction == "up"}  # of others only what was delivered
    return [
        {"round": line["round"], "task_group": line["task_group"], "mechanism": mechanism, **norms}
        for line in evidence.run.read_lines("metrics.jsonl")
        if line["round"] in rounds
        for mechanism, norms in (line.get("norms") or {}).items()
    ]


def _norm(sent: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> float:
    # fsum: files give tensors in no order, and the sum must not depend on it
    return math.sqrt(
        math.fsum(float((value - before[name].cpu()).double().square().sum()) for name, value in sent.items())
    )
