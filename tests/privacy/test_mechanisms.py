"""Mechanisms that are files by themselves: what each must keep, and what is said of one that does not."""

import pytest
import torch

from atlas_cli.errors import ConfigError
from atlas_cli.privacy.mechanisms import nopeek
from atlas_cli.testing import mechanisms as conformance


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nopeek", {"weight": 0.5}),
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
