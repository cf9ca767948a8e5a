"""Mechanisms that are files by themselves: what each must keep, and what is said of one that does not."""

import pytest
import torch

from atlas_cli.errors import ConfigError, PluginError
from atlas_cli.privacy.mechanisms import nopeek
from atlas_cli.privacy.mechanisms.contract import BaseMechanism, penalty_of, sent_by
from atlas_cli.testing import mechanisms as conformance


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nopeek", {"weight": 0.5}),
        ("mid", {}),
        ("denoise", {}),
        ("activations", {"clip": 1.0, "noise_multiplier": 1.0}),
        ("labels", {"epsilon": 1.0}),
    ],
)
def test_they_keep_what_every_mechanism_promises(name, options):
    conformance.check(name, options)


def test_options_that_it_does_not_have_are_named():
    with pytest.raises(ConfigError, match=r"privacy\.nopeek\.wieght: is not one of its options; did you mean weight\?"):
        conformance.check("nopeek", {"wieght": 1.0, "weight": 1.0})


@pytest.mark.parametrize(
    ("hook", "broken", "promise"),
    [
        ("sent", lambda self, x, mask, now: x.detach(), "no gradient passes through sent"),
        ("sent", lambda self, x, mask, now: x + torch.rand_like(x), "other noise the second time"),
        ("sent", lambda self, x, mask, now: x[:, :1], "sent gives"),
        ("sent", lambda self, x, mask, now: x.double(), "sent gives"),
        ("penalty", lambda self, e, x, mask: x.sum(1), "must give one finite number"),
    ],
)
def test_a_mechanism_that_breaks_a_promise_is_told_which(monkeypatch, hook, broken, promise):
    monkeypatch.setattr(nopeek.Mechanism, hook, broken)
    with pytest.raises(AssertionError, match=promise):
        conformance.check("nopeek", {"weight": 1.0})


def test_what_a_mechanism_gives_is_held_against_its_contract():
    activations, mask = torch.ones(2, 3, 4), torch.ones(2, 3)

    class Mechanism(BaseMechanism):
        protects = "nothing"

        def sent(self, activations, mask, now):
            return activations[:, :1] if now == (0, 0) else activations

        def penalty(self, embedded, activations, mask):
            return activations.sum(-1)

    made = Mechanism(None, 0, "a")
    says = r"test_mechanisms\.py: Mechanism\.sent gives torch\.float32 of \(2, 1, 4\), expected .* of \(2, 3, 4\)"
    with pytest.raises(PluginError, match=says):
        sent_by(made, activations, mask, (0, 0))
    assert sent_by(made, activations, mask, (0, 1)) is activations
    with pytest.raises(PluginError, match=r"Mechanism\.penalty gives a tensor of shape \(2, 3\), expected a 0-d"):
        penalty_of(made, lambda: activations, activations, mask)
