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

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from atlas_cli.audit.attacks._client_gradients import require_plain
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import UNSPLIT, Evidence, Step
from atlas_cli.audit.figures import Figure, Inapplicable, require_examples, share_interval
from atlas_cli.audit.uploads import uploaded
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.halves.split import run_half
from atlas_cli.wire.messages import AdapterUpdate

CHUNK = 256  # tokens tried at once, at all positions
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
        path = _lowest(evidence, steps[0].client)
        spans = [_span(evidence, step, path) for step in steps]
        found: list[set[int]] = [set() for _ in steps]
        length = max(step.batch.input_ids.shape[1] for step in steps)
        for ids, inputs in _candidates(evidence, path, length):
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


def _lowest(evidence: Evidence, client: str) -> str:
    """The lowest adapted layer, which must be in the lowest block."""
    party = evidence.party(client, 1)
    path = next(iter(party.adapters.adapters))
    if layer_of(path, evidence.federation.base.family) > 0:
        raise Inapplicable("the lowest block has no adapter")
    return path


def _span(evidence: Evidence, step: Step, path: str) -> Tensor:
    """Orthonormal rows (k, d) that span the update of A, as far as it is above the rounding of A."""
    name = f"{path}.lora_A"
    state = evidence.party(step.client, step.round).adapters.state()
    before = state[name].cpu()
    after = next(
        uploaded(evidence.federation, m, state)[name]
        for m in evidence.messages
        if (m.round, m.client, m.type) == (step.round, step.client, AdapterUpdate)
    )
    _, sizes, rows = torch.linalg.svd(after.double() - before.double(), full_matrices=False)
    rounding = torch.finfo(torch.float32).eps * float(before.abs().max()) * before.shape[1] ** 0.5
    return rows[sizes > rounding].float()


@torch.no_grad()
def _candidates(evidence: Evidence, path: str, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (n,) and the layer's inputs for them at every position, (n, length, d), of norm 1.

    Raises:
        Inapplicable: the layer's input depends on more than a token and its position.
    """
    base = evidence.federation.base
    half, layer = base.client_half(1), base.model.get_submodule(path)

    def inputs_of(ids: Tensor) -> Tensor:
        with layer.register_forward_pre_hook(_stop):
            try:
                run_half(half, torch.ones_like(ids), input_ids=ids)
            except _Given as given:
                return nn.functional.normalize(given.x.float(), dim=-1)
        raise Inapplicable(f"{path} is not in the lowest block")

    every = torch.arange(len(evidence.embedding))
    mixed = every[: 2 * length : 2][None]
    alike = inputs_of(mixed[:, -1:].expand_as(mixed))
    if not torch.allclose(inputs_of(mixed)[0, -1], alike[0, -1], atol=1e-5):
        raise Inapplicable(f"the input of {path} depends on the tokens around")
    for ids in every.split(CHUNK):
        yield ids, inputs_of(ids[:, None].expand(-1, length))


class _Given(Exception):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


def _stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
    raise _Given(args[0])
