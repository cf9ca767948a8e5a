"""A test of a mechanism, for its author's own tests: ``conformance.check("my-mechanism", {"rate": 0.1})``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.plugins import checked_options, load_class
from atlas_cli.privacy.mechanisms import PACKAGE
from atlas_cli.privacy.mechanisms.contract import BaseMechanism

BATCH, TOKENS, WIDTH = 3, 6, 8


def check(name: str, options: Mapping[str, Any]) -> None:
    """Let a mechanism act in a local step, and hold what it does against what every mechanism promises.

    Raises:
        AssertionError: says which promise is broken.
        ConfigError: the mechanism breaks its contract, or does not have these options.
    """
    mechanism = load_class(PACKAGE, name, "Mechanism", BaseMechanism)
    chosen = checked_options(mechanism.Options, dict(options), f"privacy.{name.replace('-', '_')}")
    assert mechanism.promise(chosen).strip(), "it does not say what it protects"
    party = mechanism(chosen, 0, "a")
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        activations = torch.randn(BATCH, TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
        mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [TOKENS - 1], [2]])
        _check_sent(mechanism(chosen, 0, "a"), party, activations, mask)
        _check_penalty(party, activations, mask)


def _check_sent(again: BaseMechanism, party: BaseMechanism, activations: Tensor, mask: Tensor) -> None:
    before = activations.detach().clone()
    found = party.sent(activations, mask, (1, 0))
    assert torch.equal(activations, before), "sent changes the activations in place"
    kind = (tuple(found.shape), found.dtype)
    assert kind == (tuple(before.shape), before.dtype), f"sent gives {kind} for {tuple(before.shape)} of {before.dtype}"
    assert found[mask].isfinite().all(), "sent gives what is not finite"
    party.sent(activations, mask, (1, 1))
    for other in (party, again):
        assert torch.equal(other.sent(activations, mask, (1, 0)), found), "sent draws other noise the second time"
    assert found.requires_grad, "no gradient passes through sent"
    (gradient,) = torch.autograd.grad(found.float().sum(), activations)
    assert gradient.isfinite().all(), "the gradient that passes through sent is not finite"


def _check_penalty(party: BaseMechanism, activations: Tensor, mask: Tensor) -> None:
    embedded = torch.ones_like(activations).cumsum(1).detach()
    found = party.penalty(lambda: embedded, activations, mask)
    if found is not None:
        assert found.dim() == 0 and found.isfinite(), f"penalty gives {found!r:.80}, and must give one finite number"
        assert found.requires_grad, "no gradient passes through penalty"
