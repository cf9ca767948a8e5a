"""Length of every text from the gradients that the server returns: padding gets none, so its rows are exactly 0.

The attention mask of the activation message says the same in the clear, wherever it is sent as it is.
"""

from __future__ import annotations

from collections import Counter

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, Inapplicable, share_interval
from atlas_cli.wire.messages import Gradients


class Attack(BaseAttack):
    """Recovers the lengths of texts."""

    channel = "gradients"
    knows = "nothing else"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of texts with the right length; chance is a random length up to the longest recorded one."""
        hits, lengths, longest = [], Counter[int](), 1
        for step in evidence.chosen_steps():
            if Gradients not in step.messages:
                continue
            present = evidence.decoded(step, Gradients).gradients.abs().amax(2) > 0
            longest = max(longest, present.shape[1])
            causal = evidence.federation.data[evidence.federation.group_of(step.client)].task.causal_only
            for row, length in zip(present, step.batch.attention_mask.sum(1).tolist(), strict=True):
                last = int(row.nonzero().max()) + 1 if row.any() else 0
                # a text's last token predicts nothing, and gets no gradient
                hits.append(float(last + causal == length))
                lengths[length] += 1
        if not hits:
            raise Inapplicable("no returned gradients were recorded")
        interval = share_interval(hits, [1.0] * len(hits))
        floor = lengths.most_common(1)[0][1] / len(hits)
        what = "texts whose length is found, share"
        return self.figure(what, interval, chance=1 / longest, examples=len(hits), floor=floor)
