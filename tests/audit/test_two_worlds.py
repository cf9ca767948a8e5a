"""What a merged adapter tells of a client: controls that must hold, and rates by hand."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from atlas_cli.audit.two_worlds import distinguish, epsilon_bound, epsilon_gap
from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import BrokenBoundError, ConfigError
from atlas_cli.federation.build import build_for_audit


def normal(seed, n=200, shift=0.0, features=10):
    samples = np.random.default_rng(seed).normal(size=(n, features))
    samples[:, 0] += shift
    return samples


@pytest.mark.slow
def test_a_world_against_itself_cannot_be_told():
    # 95 % intervals: of twenty pairs, two may miss at the outside
    verdicts = [distinguish(normal(2 * i), normal(2 * i + 1)) for i in range(20)]
    assert sum(v.low <= 0.5 <= v.high for v in verdicts) >= 17
    assert sum(v.epsilon == 0 for v in verdicts) >= 19


def test_a_leak_is_found():
    verdict = distinguish(normal(0), normal(1, shift=3.0))
    assert verdict.low > 0.9 and verdict.advantage > 0.7 and verdict.epsilon > 1


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_the_lower_bound_stays_below_what_the_mechanism_guarantees(epsilon):
    # Laplace noise on a sum of sensitivity 1: (epsilon, 0)-differentially private, and attained by a threshold
    for seed in range(3):
        draw = np.random.default_rng(seed)
        present, absent = (draw.laplace(value, 1 / epsilon, size=(600, 1)) for value in (1.0, 0.0))
        verdict = distinguish(present, absent, delta=0.0)
        assert verdict.epsilon <= epsilon
        assert verdict.advantage <= (math.exp(epsilon) - 1) / (math.exp(epsilon) + 1) + 0.12
    assert verdict.epsilon > 0.3 * epsilon or epsilon < 3


def test_bound_on_epsilon_by_hand():
    # 100 of 100 hits, no false alarm: ends of exact intervals at 97.5 % are 0.0125^(1/100) and 1 - that
    end = 0.0125 ** (1 / 100)
    assert epsilon_bound(100, 0, 100, 0.0) == pytest.approx(math.log(end / (1 - end)))
    assert epsilon_bound(100, 0, 100, 0.5) == pytest.approx(math.log((end - 0.5) / (1 - end)))
    assert epsilon_bound(50, 50, 100, 0.0) == 0
    assert epsilon_bound(0, 100, 100, 0.0) == 0


def test_too_few_runs():
    with pytest.raises(ConfigError, match="199 runs of a world are too few for an interval; give 200 or more"):
        distinguish(normal(0, 199), normal(1, 300))


@pytest.fixture
def small(toy, tmp_path):
    def write(**changes):
        training = {"rounds": 1, "local_steps": 1, "batch_size": 4, "client_optimizer": {"name": "sgd", "lr": 0.1}}
        config = toy(**{"training": training, **changes})
        config["task_groups"]["g"]["data"] |= {"limit": 24, "test_limit": 2}
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(tmp_path / "toy.yaml")

    return write


@pytest.mark.slow
def test_noise_on_updates_keeps_what_it_promises_and_both_controls_hold(small, capsys):
    pytest.importorskip("dp_accounting")
    noise = {"privacy": {"updates": {"clip": 0.1, "epsilon": 1.0}}, "aggregation": {"weights": "uniform"}}
    assert main(["audit", small(**noise, clients={"b": {"count": 1}}), "--without", "a", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    worlds, itself, leak = (
        found[name] for name in ("worlds", "control: a world against itself", "control: injected leak")
    )
    assert worlds["runs"] == 200 and worlds["epsilon"] <= 1.0
    assert worlds["advantage"] <= (math.e - 1) / (math.e + 1) + 0.15
    assert itself["low"] <= 0.5 <= itself["high"]
    assert leak["low"] > 0.8
    gap = found["gap"]  # the server learns from activations too, which the account of updates leaves out
    assert (gap["lower"], gap["upper"]) == (worlds["epsilon"], None) and "server.rank: 0" in gap["why"]


def test_rounds_that_are_not_scored_train_the_same(make_federation, train_quietly):
    scored, unscored = (make_federation(lora={"dropout": 0.2}) for _ in range(2))
    train_quietly(scored)
    recorder = train_quietly(unscored, scored=False)
    assert not any(line["test"] for line in recorder.metrics)
    for client in scored.clients:
        state = unscored.clients[client].adapters.state()
        assert all(torch.equal(state[name], value) for name, value in scored.clients[client].adapters.state().items())


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"where": "server"}, True),
        ({"where": "client"}, "it is known who takes part"),
        (None, "no noise on what clients send"),
    ],
)
def test_the_bound_of_the_accountant_stands_beside_where_it_covers_what_is_compared(toy, changes, holds):
    pytest.importorskip("dp_accounting")
    noise = {"privacy": {"updates": {"clip": 0.1, "epsilon": 4.0, **changes}}} if changes else {}
    config = toy(**noise, mode="federated", aggregation={"weights": "uniform"}, training={"rounds": 4})
    federation = build_for_audit(ExperimentConfig.model_validate(config))
    gap = epsilon_gap(federation, "a", 3.0)
    if holds is True:
        assert gap.upper == pytest.approx(federation.protection.account.epsilon("updates", "g", 1)) and gap.upper < 3
        with pytest.raises(BrokenBoundError, match="--without a shows epsilon of a client to be 3 or more"):
            gap.require("--without a")
    else:
        assert gap.upper is None and holds in gap.why
        gap.require("--without a")


@pytest.mark.parametrize(
    ("args", "changes", "says"),
    [
        (["--without", "d"], {}, "--without: no client is named 'd'"),
        (["--without", "a", "--runs", "50"], {}, "200"),
        (["--without", "a", "--by-layer"], {}, "--without: give it without --by-layer"),
        (["--without", "a"], {"aggregation": {"method": "none"}}, "clients send no updates"),
    ],
)
def test_bad_input(small, capsys, args, changes, says):
    assert main(["audit", small(**changes), *args]) == 2
    assert says in capsys.readouterr().err
