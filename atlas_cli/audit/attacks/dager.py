"""Tokens from LoRA updates by a span check, as DAGER does it with gradients (Petrov et al., 2405.15586).

The gradient of A (r, d) of the lowest adapted layer is s B^T G X: its rows lie in the span of the layer's inputs X, one
row a token. In the lowest block an input is a function of token and position alone, so every (token, position) is
tried: one that lies in the span of a client's update was in its batch. That is exact where the update is one plain
gradient step (SGD without momentum or decay, one local step, no dropout), B is not 0 any more (from round 2 on), and
the batch has no more distinct inputs than the rank; with more, an input is not in the span of r rows, and nothing is
found. A token that gets no gradient is not found either: the last of a text in language modelling, the first for
queries.
"""

from __future__ import annotations

from torch import Tensor

from atlas_cli.audit.attacks._client_gradients import require_plain
from atlas_cli.audit.attacks._span import candidates, lowest_adapted, span_of
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import UNSPLIT, Evidence, Step
from atlas_cli.audit.figures import Figure, Inapplicable, require_examples, share_interval
from atlas_cli.audit.uploads import uploaded
from atlas_cli.wire.messages import AdapterUpdate

OUTSIDE = 0.05  # the share of an input's norm that may lie outside the span: rounding of the update leaves as much


class Attack(BaseAttack):
    """Recovers the distinct tokens behind client updates."""

    channel = "updates"
    knows = "the frozen model, the adapters delivered, the longest text"

    def attack(self, evidence: Evidence) -> Figure:
        """|found and there| / |found or there| over the distinct tokens of each update (Jaccard index)."""
        if evidence.federation.config.mode != "split-federated":
            raise Inapplicable(UNSPLIT)
        sends_A = "A" in evidence.federation.aggregator.method.SENT
        require_plain(evidence, {"a method to which clients send A": sends_A})
        steps = [step for step in evidence.steps if step.number == 0 and step.round > 1]
        if not steps:
            raise Inapplicable("no round after the first was recorded; in the first B is 0, and A does not move")
        require_examples(len(steps), "updates")
        path = lowest_adapted(evidence, steps[0].client)
        spans = [_span(evidence, step, path) for step in steps]
        found: list[set[int]] = [set() for _ in steps]
        length = max(step.batch.input_ids.shape[1] for step in steps)
        for ids, inputs in candidates(evidence, path, length):
            for tokens, span in zip(found, spans, strict=True):
                inside = (inputs @ span.T).square().sum(2) >= 1 - OUTSIDE**2
                tokens.update(ids[inside.any(1)].tolist())
        hits, sizes = [], []
        for step, tokens in zip(steps, found, strict=True):
            there = set(step.batch.original_ids[step.batch.attention_mask.bool()].tolist())
            hits.append(float(len(tokens & there)))
            sizes.append(float(len(tokens | there)))
        what = "distinct tokens of an update recovered, share (false ones count against)"
        chance = 1 / len(evidence.embedding)
        return self.figure(what, share_interval(hits, sizes), chance=chance, examples=len(steps))


def _span(evidence: Evidence, step: Step, path: str) -> Tensor:
    """What spans the update of A of a layer."""
    name = f"{path}.lora_A"
    state = evidence.party(step.client, step.round).adapters.state()
    before = state[name].cpu()
    after = next(
        uploaded(evidence.federation, m, state)[name]
        for m in evidence.messages
        if (m.round, m.client, m.type) == (step.round, step.client, AdapterUpdate)
    )
    return span_of(after - before, before)
