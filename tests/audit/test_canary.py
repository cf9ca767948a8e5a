"""Canaries: planted sequences that were learnt by heart are found, and bounds on epsilon keep what they promise."""

import math
from bisect import bisect_left

import numpy as np
import pytest
from scipy.stats import binom

from atlas_cli.audit import shadow_runs
from atlas_cli.audit.attacks import attack_of, canary
from atlas_cli.audit.attacks.canary import BEST, CHANCE, exposures, told_from_twins
from atlas_cli.audit.epsilon_gap import EpsilonGap, guesses_bound, require_bounds
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import BrokenBoundError
from atlas_cli.experiment import session
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

KEPT = {"audit": {"record": {"rounds": [1]}}}
RECORDED = {"audit": {"record": {"rounds": [1]}}, "training": {"rounds": 1, "local_steps": 4}}


def test_sequences_that_gain_like_others_have_the_exposure_of_chance():
    draw = np.random.default_rng(0)
    found = np.concatenate([exposures(draw.normal(size=10 + canary.REFERENCES), 10) for _ in range(100)])
    assert found.mean() == pytest.approx(CHANCE, abs=0.15)
    assert pytest.approx(np.mean(BEST - np.log2(np.arange(1, 129)))) == CHANCE


def test_exposure_by_hand():
    gains = np.array([9.0, 3.5, -1.0, *np.arange(7.0)])
    assert exposures(gains, 3).tolist() == [3.0, 3 - math.log2(4), 0.0]  # above 7, 4 and none of 7 others
    assert exposures(np.array([2.0, *np.arange(7.0)]), 1) == pytest.approx(3 - math.log2(5.5))  # a tie is half
    assert told_from_twins(np.array([1.0, 2.0, 3.0, 0.0, 2.0, 4.0, 9.0]), 3) == 1


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_bound_of_guesses_against_the_theorem_written_out(delta):
    """Steinke et al., 2305.08846, Theorem 5.2, with the binomial of another library."""
    for right, guesses in ((90, 100), (199, 200), (20, 20)):
        epsilon = guesses_bound(right, guesses, delta)
        share = 1 / (1 + math.exp(-2 * epsilon))
        more = max(
            (binom.sf(right - i - 1, guesses, share) - binom.sf(right - 1, guesses, share)) / i
            for i in range(1, right + 1)
        )
        tail = binom.sf(right - 1, guesses, share)
        assert tail + 2 * guesses * (1 + math.exp(epsilon)) * delta * more == pytest.approx(0.05, rel=2e-3)
    assert guesses_bound(50, 100, delta) == 0 and guesses_bound(0, 30, delta) == 0


def test_bound_of_guesses_stays_below_what_a_mechanism_guarantees():
    """Of randomised response on a pair at 2 epsilon, which is epsilon for one example more or less."""
    least = bisect_left(range(201), True, key=lambda right: guesses_bound(right, 200, 0.0) > 1.0)
    assert 0.01 < binom.sf(least - 1, 200, 1 / (1 + math.exp(-2))) <= 0.05
    assert guesses_bound(180, 200, 0.0) > 0.85


def test_a_lower_bound_above_the_upper_one_fails():
    assert EpsilonGap("an example", 1e-5, 2.0, None, "none").in_words().endswith("no upper bound: none")
    kept = {"attack": "canary", "gap": {"unit": "an example", "delta": 1e-5, "lower": 1.0, "upper": 1.0, "why": ""}}
    require_bounds({"attacks": [{"attack": "x", "gap": None}, kept]})
    broken = {**kept, "gap": {**kept["gap"], "lower": 2.5}}
    with pytest.raises(BrokenBoundError, match=r"attack canary shows epsilon of an example to be 2.5 or more, .* 1 at"):
        require_bounds({"attacks": [broken]})


def test_texts_are_replaced_by_sequences_that_look_like_others(trained, monkeypatch):
    evidence, seen = Evidence.of_run(trained(**RECORDED), canaries=24), []
    monkeypatch.setattr(shadow_runs, "train", lambda federation, _: seen.append(federation))
    figure = attack_of("canary").attack(evidence)
    assert (figure.examples, figure.best, figure.chance) == (24, 7.0, CHANCE) and figure.gap.lower == 0
    assert figure.gap.upper is None and "privacy.examples" in figure.note and "asked for" not in figure.note
    (federation,), count = seen, 0
    for client in federation.clients:
        own, before = federation.train_features(client), evidence.federation.train_features(client)
        planted = [text for text in own if text not in before]
        assert len(own) == len(before) and len({tuple(text["input_ids"]) for text in planted}) == len(planted)
        common = {text["input_ids"][0] for text in before} | {text["input_ids"][-1] for text in before}
        assert all({text["input_ids"][0], text["input_ids"][-1]} <= common for text in planted)
        count += len(planted)
    assert count == 24
    evidence.canaries = 1000
    fewer = attack_of("canary").attack(evidence)
    assert fewer.examples < 1000 and "; 1000 were asked for, but a client takes no more than 127" in fewer.note


def test_what_canaries_need_is_named_before_anything_is_trained(trained, monkeypatch, capsys):
    monkeypatch.setattr(shadow_runs, "train", lambda *_: pytest.fail("trained"))
    evidence = Evidence.of_run(trained(**RECORDED))
    with pytest.raises(Inapplicable, match=r"ask for some with --canaries, e\.g\. 100"):
        attack_of("canary").attack(evidence)
    evidence.canaries = 20
    monkeypatch.setattr(canary, "LEAST_TOKENS", 1000)
    with pytest.raises(Inapplicable, match="tokens to draw sequences from"):
        attack_of("canary").attack(evidence)
    for args, says in ((["--canaries", "3"], "20"), (["--canaries", "20", "--without", "a"], "is a run")):
        assert main(["audit", str(evidence.run.path), *args]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["causal-lm", "sequence-classification"])
def test_sequences_that_were_learnt_by_heart_are_found(toy, task):
    rate = {"client_optimizer": {"lr": 0.03}, "server_optimizer": {"lr": 0.03}}
    training = {"rounds": 1, "local_steps": 60, "batch_size": 24, **rate}
    config = toy(task=task, mode="federated", server={"rank": 8}, **KEPT, training=training)
    config["clients"] = {"a": {"task_group": "g", "rank": 16}}
    run = session.start(ExperimentConfig.model_validate(config), PlainProgress(Terminal(quiet=True)))
    evidence = Evidence.of_run(run, canaries=24)
    figure = attack_of("canary").attack(evidence)
    assert figure.low > CHANCE and figure.high <= BEST


@pytest.mark.slow
def test_a_mechanism_that_leaks_more_than_is_accounted_for_is_found_out(toy, monkeypatch):
    """With the noise of ``privacy.examples`` both bounds agree; without it they cannot."""
    rate = {"client_optimizer": {"lr": 0.03}, "server_optimizer": {"lr": 0.03}}
    training = {"rounds": 1, "local_steps": 60, "batch_size": 24, **rate}
    noise = {"privacy": {"examples": {"clip": 1.0, "noise_multiplier": 25.0}}, "aggregation": {"weights": "uniform"}}
    config = toy(task="causal-lm", mode="federated", server={"rank": 8}, **KEPT, **noise, training=training)
    config["clients"] = {"a": {"task_group": "g", "rank": 16}}
    run = session.start(ExperimentConfig.model_validate(config), PlainProgress(Terminal(quiet=True)))
    evidence = Evidence.of_run(run, canaries=24)
    honest = attack_of("canary").attack(evidence)
    assert honest.gap.upper == pytest.approx(evidence.federation.protection.account.epsilon("updates", "g", 1))
    assert honest.gap.lower <= honest.gap.upper < 1
    require_bounds({"attacks": [honest.record()]})
    privatise = ExampleNoise.privatise

    def without_noise(self, *args):
        self.multiplier = 0.0
        privatise(self, *args)

    monkeypatch.setattr(ExampleNoise, "privatise", without_noise)
    broken = attack_of("canary").attack(evidence)
    assert broken.gap.upper == honest.gap.upper
    with pytest.raises(BrokenBoundError, match="attack canary shows epsilon of an example"):
        require_bounds({"attacks": [broken.record()]})
