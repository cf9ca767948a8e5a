"""LiRA finds what was learnt by heart, nothing where nothing was learnt, and scores as the formula says."""

import json
import random
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binomtest

from atlas_cli.audit import shadow_runs
from atlas_cli.audit.attacks import attack_of, lira
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable, at_few_false_alarms, low_rates_in_words, true_positives
from atlas_cli.cli import main
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment import session
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

SHADOWS = 8
RATE = {"client_optimizer": {"lr": 0.03}, "server_optimizer": {"lr": 0.03}}

KEPT = {"record": {"rounds": [1]}}
SHARED = {  # no local test parts: clients are asked of the common one
    "partition": {"local_test": 0.0},
    "task_groups": {"g": {"data": {"test_fraction": 0.5}}},
}


@pytest.fixture(scope="module")
def learnt(toy, tmp_path_factory):
    """A run that learnt by heart: every other text tells its label, and of the rest nothing but memory does."""
    draw, words, rows = random.Random(0), "the a film movie game phone price city river was is and very not".split(), []
    for i in range(120):
        label = draw.choice(["pos", "neg"])
        told = [{"pos": "good", "neg": "bad"}[label]] * 3 if i % 2 else draw.choices(words, k=3)
        rows.append(f"{' '.join([*draw.choices(words, k=5), *told])},{label}")
    path = tmp_path_factory.mktemp("mixed") / "mixed.csv"
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    config = toy(
        mode="federated",
        task_groups={"g": {"data": {"files": str(path)}}},
        partition={"local_test": 0.5},
        server={"rank": 8},
        audit=KEPT,
        training={"rounds": 1, "local_steps": 25, "batch_size": 48, **RATE},
    )
    config["clients"] = {"a": {"task_group": "g", "rank": 8}}
    run = session.start(ExperimentConfig.model_validate(config), PlainProgress(Terminal(quiet=True)))
    return Evidence.of_run(run, shadows=SHADOWS)


@pytest.mark.slow
def test_what_was_learnt_by_heart_is_found(learnt):
    figure, simple = attack_of("lira").attack(learnt), attack_of("membership").attack(learnt)
    assert figure.low > 0.55 and figure.value > simple.value
    assert (figure.chance, figure.best, figure.channel, figure.examples) == (0.5, 1.0, "adapters", simple.examples)
    assert (
        f"{SHADOWS} shadow runs, after round 1" in figure.what
        and "too few to speak of 0.1 % false alarms" in figure.note
    )


@pytest.mark.slow
def test_where_members_were_not_trained_on_either_it_stays_at_chance(learnt, monkeypatch):
    asked = lira.questions(learnt)

    def others_alone(_):
        for question in asked:
            half = len(question.others) // 2
            strangers, rest = question.others[:half], [*question.rest, *question.members[half:]]
            yield replace(question, members=strangers, others=question.others[half : 2 * half], rest=rest)

    monkeypatch.setattr(lira, "questions", others_alone)
    figure = attack_of("lira").attack(replace(learnt, shadows=4))
    assert figure.low <= 0.5 <= figure.high


@pytest.mark.slow
def test_a_shadow_run_has_as_many_texts_as_the_run_and_no_text_twice(trained, monkeypatch):
    evidence, seen = Evidence.of_run(trained(audit=KEPT, **SHARED), shadows=4), []
    monkeypatch.setattr(shadow_runs, "train", lambda federation, _: seen.append(federation))
    assert attack_of("lira").attack(evidence).value == 0.5  # nobody trained: all shadow models are one
    sizes = {client: len(evidence.federation.train_features(client)) for client in evidence.federation.clients}
    parts = []
    for federation in seen:
        texts = [id(text) for client in federation.clients for text in federation.train_features(client)]
        assert {client: len(federation.train_features(client)) for client in federation.clients} == sizes
        assert len(set(texts)) == len(texts)
        parts.append(frozenset(texts))
    assert len(set(parts)) == 4 and len({federation.config.seed for federation in seen}) == 4
    assert parts[0] | parts[1] == parts[2] | parts[3]  # two in a row are a half and the other half


@pytest.mark.slow
def test_too_few_texts_are_noticed_before_anything_is_trained(trained, monkeypatch):
    monkeypatch.setattr(shadow_runs, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(Inapplicable, match="too few for an interval: 6 examples"):
        attack_of("lira").attack(Evidence.of_run(trained(audit=KEPT), shadows=4))


def test_scores_by_hand():
    phi = np.array([2.0, -1.0])
    shadows = np.array([[1.0, 0.0], [3.0, -3.0], [0.0, 2.0], [-2.0, 4.0]])
    inside = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    # in: means 2 and 3, squares 2 and 2 over 2 degrees of freedom; out: means -1 and -1.5, squares 2 and 4.5
    with_it, without = 2.0**0.5, 3.25**0.5
    wanted = [
        np.log(NormalDist(2, with_it).pdf(2) / NormalDist(-1, without).pdf(2)),
        np.log(NormalDist(3, with_it).pdf(-1) / NormalDist(-1.5, without).pdf(-1)),
    ]
    assert lira.likelihood_ratios(phi, shadows, inside) == pytest.approx(wanted)


def test_many_shadow_runs_give_each_text_a_variance_of_its_own():
    draw = np.random.default_rng(0)
    inside = np.arange(lira.BY_TEXT)[:, None] % 2 == np.array([0, 0])
    shadows = draw.normal(0, [0.1, 10.0], (lira.BY_TEXT, 2))
    own = [
        np.log(NormalDist.from_samples(x[i]).pdf(1.0) / NormalDist.from_samples(x[~i]).pdf(1.0))
        for x, i in zip(shadows.T, inside.T, strict=True)
    ]
    assert lira.likelihood_ratios(np.ones(2), shadows, inside) == pytest.approx(own)


def test_confidences_are_scaled_by_the_logit():
    losses = -np.log([0.5, 0.9, 1e-4])
    assert lira.scaled_confidence(losses) == pytest.approx([0.0, np.log(9), np.log(1e-4 / 0.9999)])
    assert np.isfinite(lira.scaled_confidence([0.0, 1e4])).all()


def test_every_text_is_in_half_of_the_shadow_runs_and_sizes_are_those_of_the_run():
    inside = lira.halves([3, 5], 6, 0)
    assert inside.shape == (6, 16) and (inside.sum(0) == 3).all()
    assert (inside[:, :6].sum(1) == 3).all() and (inside[:, 6:].sum(1) == 5).all()
    assert len({row.tobytes() for row in inside}) == 6


def test_true_positives_by_hand():
    negative = np.arange(100.0)
    assert true_positives(np.array([98.5, 99.5, 3.0, 98.0]), negative, 0.01) == 0.5  # one may be above: above 98
    assert true_positives(np.array([98.5, 99.5, 3.0, 98.0]), negative, 0.001) == 0.25


def test_shares_found_at_few_false_alarms_have_exact_intervals():
    draw = np.random.default_rng(0)
    one, tenth = at_few_false_alarms(draw.normal(2.33, 1, 400), draw.normal(0, 1, 2000))
    for rate, alarms, truth in ((one, 20, 0.5), (tenth, 2, 0.22)):
        exact = binomtest(round(400 * rate.found), 400).proportion_ci(0.95, "exact")
        assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert rate.alarms == alarms and rate.found == pytest.approx(truth, abs=0.1)
    assert (one.rate, tenth.rate, one.others) == (0.01, 0.001, 2000)
    assert low_rates_in_words((one,)).startswith("at 1 % false alarms (20 of 2,000 others) finds 0.")


def test_too_few_others_for_a_rate_are_said_to_be_too_few():
    one, tenth = at_few_false_alarms(np.full(50, 9.0), np.arange(999.0))
    assert one.found is not None and (tenth.alarms, tenth.found, tenth.low, tenth.high) == (0, None, None, None)
    assert low_rates_in_words((tenth,)) == "999 others are too few to speak of 0.1 % false alarms, which takes 1,000"
    assert at_few_false_alarms(np.ones(50), np.arange(1000.0))[1].found == 0
    assert at_few_false_alarms(np.ones(50), np.arange(99.0))[0].found is None


def test_members_like_others_are_found_as_often_as_others():
    draw, held = np.random.default_rng(1), 0
    for _ in range(12):
        (one, _) = at_few_false_alarms(draw.normal(size=300), draw.normal(size=5000))
        held += one.low <= 0.01 <= one.high
    assert held >= 11


@pytest.mark.slow
def test_it_trains_nothing_that_was_not_asked_for(learnt, monkeypatch, capsys):
    monkeypatch.setattr(shadow_runs, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(Inapplicable, match=r"ask for some with --lira, e\.g\. 16"):
        attack_of("lira").attack(replace(learnt, shadows=0))
    assert main(["audit", str(learnt.run.path), "--attack", "lira", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_measured"].keys() == {"lira"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--lira", "3"], "4"),
        (["--lira", "8", "--without", "a"], "is a run"),
    ],
)
def test_bad_options(learnt, capsys, args, says):
    assert main(["audit", str(learnt.run.path), *args]) == 2
    assert says in capsys.readouterr().err
