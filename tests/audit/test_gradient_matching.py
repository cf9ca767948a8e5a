"""Attacks that match gradients find the texts where an update is a gradient, and nothing where it is not."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from atlas_cli.audit.attacks import attack_of, lamp, tag
from atlas_cli.audit.attacks._client_gradients import client_gradients
from atlas_cli.audit.attacks._gradient_search import target_of, with_equal_adapters
from atlas_cli.audit.attacks._prior import Bigrams, language_model
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.config.schema.privacy import MidConfig

SGD = {"name": "sgd", "lr": 30.0}
PLAIN = {  # the run of the span check, made once for both
    "training": {"rounds": 2, "local_steps": 1, "batch_size": 1, "client_optimizer": SGD},
    "audit": {"record": {"rounds": [2]}},
    "clients": {"a": {"task_group": "g", "rank": 16, "count": 20}, "b": {"count": 1}},
}
RECORDED = {"audit": {"record": {"rounds": [1]}}, "training": {"rounds": 1, "local_steps": 4}}


@pytest.fixture(scope="module")
def plain(trained):
    return Evidence.of_run(trained(task="causal-lm", family="gpt2", **PLAIN))


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(tag, "STEPS", 20)
    monkeypatch.setattr(lamp, "STEPS", 20)
    monkeypatch.setattr(lamp, "STRETCHES", 2)
    monkeypatch.setattr(lamp, "TRIES", 4)


def distances(evidence, gradients):
    """How far the gradients of the true texts are from those seen, by client."""
    found = []
    for together in with_equal_adapters(evidence, gradients):
        target = target_of(evidence, together)
        longest = target.steps.mask.shape[1]
        ids = [each.step.batch.input_ids for each in together]
        ids = torch.cat([pad(each, (0, longest - each.shape[1])) for each in ids])
        found += tag.distance(target, target.steps.table[ids], target.at_cut).tolist()
    return found


def changed(monkeypatch, change):
    """The attack gets gradients that were changed."""
    for module in (tag, lamp):
        monkeypatch.setattr(module, "client_gradients", lambda *args: (change(g) for g in client_gradients(*args)))


@pytest.mark.slow
def test_the_true_texts_have_the_gradients_that_are_seen(plain):
    found = distances(plain, list(client_gradients(plain, 32)))
    assert len(found) == 21 and max(found) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tag", "lamp"])
def test_texts_of_single_steps_are_recovered_and_fewer_under_noise(plain, monkeypatch, few_steps, name):
    figure = attack_of(name).attack(plain)
    assert figure.low > 2 * figure.floor and "20 steps" in figure.note
    assert (figure.channel, figure.best, figure.examples) == ("updates", 1.0, 21)
    draw = torch.Generator().manual_seed(0)

    def noised(each):
        values = {n: v + 10 * v.std() * torch.randn(v.shape, generator=draw) for n, v in each.values.items()}
        return replace(each, values=values, scaled=False, noisy=True)

    changed(monkeypatch, noised)
    under_noise = attack_of(name).attack(plain)
    assert under_noise.value < 0.6 * figure.value and "they have noise" in under_noise.note


@pytest.mark.parametrize("name", ["tag", pytest.param("lamp", marks=pytest.mark.slow)])
def test_random_gradients_stay_at_chance(plain, monkeypatch, few_steps, name):
    draw = torch.Generator().manual_seed(0)
    changed(
        monkeypatch,
        lambda each: replace(each, values={n: torch.randn(v.shape, generator=draw) for n, v in each.values.items()}),
    )
    figure = attack_of(name).attack(plain)
    assert figure.low <= max(figure.chance, figure.floor) + 0.02 and figure.value < 0.2


@pytest.mark.slow
def test_reordering_comes_nearer_to_the_order_that_has_the_gradient(plain, monkeypatch):
    """Two tokens of each text were swapped; where the prior says nothing, the gradient alone tells."""
    monkeypatch.setattr(lamp, "TRIES", 40)
    (together, *_) = with_equal_adapters(plain, list(client_gradients(plain, 32)))
    target = target_of(plain, together)
    longest, real = target.steps.mask.shape[1], target.steps.mask.bool()
    ids = torch.cat([pad(e.step.batch.input_ids, (0, longest - e.step.batch.input_ids.shape[1])) for e in together])
    swapped = ids.clone()
    swapped[:, [0, 2]] = ids[:, [2, 0]]
    found = lamp.reordered(target, swapped, lambda ids, mask: torch.zeros(len(ids)), torch.Generator().manual_seed(0))
    assert torch.equal(found.sort(1).values, ids.sort(1).values)
    before, after = (float((each == ids)[real].double().mean()) for each in (swapped, found))
    assert after > before + 0.03


def test_the_language_model_gives_the_mean_loss_of_real_tokens(plain):
    base = plain.federation.base
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    long, short = language_model(base)(ids, mask).tolist()
    assert short == pytest.approx(float(language_model(base)(ids[1:, :3], mask[1:, :3])), rel=1e-5)
    assert long != pytest.approx(short) and 0 < short < 20


def test_bigrams_are_a_distribution_and_prefer_what_was_seen():
    model = Bigrams([{"input_ids": [1, 2, 1, 2, 3]}], 5)
    for after in (None, *range(5)):
        assert sum(model.probability(token, after) for token in range(5)) == pytest.approx(1)
    ids, mask = torch.tensor([[1, 2, 3, 0], [3, 2, 1, 0]]), torch.tensor([[1, 1, 1, 0]] * 2)
    seen, unseen = model(ids, mask).tolist()
    assert seen < unseen


def test_an_update_of_many_steps_is_not_taken_for_a_gradient(trained):
    with pytest.raises(Inapplicable, match=r"no plain gradient, .* client_optimizer.name: sgd, local_steps: 1"):
        attack_of("tag").attack(Evidence.of_run(trained(**RECORDED)))


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [
        ("privacy", "mid", MidConfig(weight=0.1), "what a bottleneck drew"),
        ("engine", "compile", True, "compiled blocks have no second derivatives"),
    ],
)
def test_steps_that_the_server_cannot_repeat_are_refused(plain, part, key, value, says):
    config = plain.federation.config
    federation = copy.copy(plain.federation)
    federation.config = config.model_copy(update={part: getattr(config, part).model_copy(update={key: value})})
    with pytest.raises(Inapplicable, match=says):
        attack_of("tag").attack(replace(plain, federation=federation))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"activations": {"clip": 0.5, "noise_multiplier": 0.01}, "pad_lengths": 8}},
        {"privacy": {"nopeek": {"weight": 0.5}}, "family": "bert", "task": "sequence-classification"},
    ],
)
def test_control_variates_are_gradients_whatever_the_optimizer_and_the_defence(trained, changes):
    training = {"rounds": 2, "local_steps": 2, "batch_size": 4, "drift": {"name": "scaffold"}}
    run = {"task": "causal-lm", "family": "gpt2", "audit": {"record": {"rounds": [2]}}, "training": training, **changes}
    evidence = Evidence.of_run(trained(**run))
    gradients = list(client_gradients(evidence, 32))
    assert len(gradients) == 3 and all(each.scaled and not each.noisy for each in gradients)
    assert max(distances(evidence, gradients)) < 1e-3
