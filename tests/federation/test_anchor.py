"""Clients that are pulled back to what they were delivered (FedProx)."""

import pytest
import torch
from support.slow import slow

from atlas_cli.config.checks import cross_check
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.parties.anchor import Anchor
from atlas_cli.planning.memory_of_plan import predict, shapes_of
from atlas_cli.planning.method import pull_of
from atlas_cli.planning.plan import make_plan

FAST = {"client_optimizer": {"name": "sgd", "lr": 0.5}, "server_optimizer": {"lr": 0.02}, "rounds": 1}


@pytest.fixture
def ends(make_config, train_quietly):
    """What a run came to, and its federation."""

    def run(drift, **changes):
        training = {**FAST, "drift": drift, **changes.pop("training", {})}
        made = build(make_config(training=training, **changes))
        train_quietly(made)
        return RunState(made).capture()[0], made

    return run


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_gradients_are_those_of_the_penalty_and_the_copy_goes_with_the_last_step():
    """Of A, s B and a head, after several steps of gradients that are drawn; s is of the client."""
    draw = torch.Generator().manual_seed(0)
    A, B, head = (torch.nn.Parameter(torch.randn(3, 4, generator=draw, dtype=torch.float64)) for _ in range(3))
    trained, mu = [(A, 1.0), (B, 2.5), (head, 1.0)], 0.3
    anchor, began = Anchor(mu, steps=3), [p.detach().clone() for p, _ in trained]
    for step in range(3):
        penalty = sum(((s * p - s * p_0) ** 2).sum() for (p, s), p_0 in zip(trained, began, strict=True)) * mu / 2
        wanted = torch.autograd.grad(penalty, [p for p, _ in trained])
        given = [torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in trained]
        for (parameter, _), gradient in zip(trained, given, strict=True):
            parameter.grad = gradient.clone()
        anchor.pull(trained, step)
        assert anchor.bytes == 3 * 12 * 8
        for (parameter, _), gradient, pull in zip(trained, given, wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient + pull, rtol=1e-12, atol=1e-12)
            assert step > 0 or torch.equal(parameter.grad, gradient)
            parameter.data -= 0.1 * parameter.grad
        anchor.end_step()
    assert anchor.bytes == 0


@pytest.mark.parametrize("mode", ["split-federated", *slow("federated")])
def test_rounds_of_one_step_are_those_of_the_plain_run_bit_for_bit(mode, ends):
    training = {"local_steps": 1}
    plain, without = ends({"name": "none"}, mode=mode, training=training)
    found, made = ends({"name": "fedprox", "mu": 1.0}, mode=mode, training=training)
    assert same(found, plain)
    assert without.clients["a"].anchor is None and made.clients["a"].anchor.mu == 1.0


def test_no_pull_is_none(make_config):
    """A client then has no anchor, and trains as without, bit for bit."""
    assert pull_of(make_config(training={"drift": {"name": "fedprox", "mu": 0.0}})) == 0
    assert pull_of(make_config(training={"drift": {"name": "fedprox"}})) == 0.01


@pytest.mark.slow
def test_what_clients_change_shrinks_with_the_pull(ends):
    far, small_steps = [], {"local_steps": 6, "client_optimizer": {"name": "sgd", "lr": 0.05}}
    for mu in (0.0, 0.4):
        _, made = ends({"name": "fedprox", "mu": mu}, training=small_steps)
        far.append(sum(float(f.B.square().sum()) for f in made.aggregator.groups["g"].merged.values()) ** 0.5)
    assert far[0] > 1.5 * far[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "labels"), [("split-federated", "client"), ("federated", "server")])
def test_its_memory_is_predicted_and_measured(mode, labels, make_config, train_quietly, monkeypatch):
    measured = []
    monkeypatch.setattr(MeasuredRound, "end", lambda self, files: measured.append(self.record()))
    drift = {"name": "fedprox", "mu": 0.1}
    made = build(make_config(mode=mode, training={"rounds": 1, "labels": labels, "drift": drift}))
    train_quietly(made)
    said = predict(made.plan, {"g": ["neg", "pos"]}, shapes_of(measured[0])).clients
    for client in "abc":
        assert measured[0]["clients"][client]["optimizer"] == said[client].optimizer
        assert said[client].optimizer > 3 * said[client].gradients  # AdamW's two moments, and the copy
        assert made.clients[client].anchor.bytes == 0


@pytest.mark.parametrize("drift", [{"mu": 0.1}, {"name": "scaffold", "mu": 0.1}])
def test_a_strength_that_nothing_uses_is_refused(drift, make_config):
    (problem,) = cross_check(make_config(training={"drift": drift}))
    assert problem.path == ("training", "drift", "mu")


def test_a_pull_to_nowhere_is_refused(make_config):
    with pytest.raises(ConfigError, match="nothing is"):
        make_plan(make_config(training={"drift": {"name": "fedprox"}}, aggregation={"method": "none"}))
