"""The unit of epsilon is an example with all its windows: what neighbours change, and what the accountant is told."""

import json
import math

import pytest
import torch
from support.rounds import exchange

from atlas_cli.config.schema.privacy import LabelsConfig
from atlas_cli.data.collate import collate
from atlas_cli.federation.batches import batch_of, batches_of
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.privacy.mechanisms.labels import CorrectedTask, randomise
from atlas_cli.tasks.contract import count_examples, example_numbers
from atlas_cli.wire.ledger import Ledger

dp_accounting = pytest.importorskip("dp_accounting")
CLIP = 0.05


@pytest.fixture
def questions(tmp_path, make_federation):
    """``questions(privacy, **changes)``: clients a, b, c on 24 questions, of 1 window or of 7 and more by turns."""
    short, words = "the river was in paris", "the film was very good and the city was not poor so we saw the river "
    with (tmp_path / "questions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for i in range(24):
            context = short if i % 2 else words * (9 + i % 4) + "paris"
            row = {"question": f"what city {i}", "context": context, "answers": "paris"}
            file.write(json.dumps(row) + "\n")

    def make(privacy, **changes):
        group = {"task": "question-answering", "data": {"files": str(tmp_path / "questions.jsonl")}}
        return make_federation(
            task_groups={"g": group},
            server={"rank": 0},
            aggregation={"weights": "uniform"},
            training={"labels": "client", "max_length": 24, "rounds": 2, "local_steps": 5, "batch_size": 2, **changes},
            privacy=privacy,
        )

    return make


def windows_of(federation, client, number):
    features = federation.train_features(client)
    return [f for f, n in zip(features, example_numbers(features), strict=True) if n == number]


def gradient(federation, features):
    """What client a steps with, for a batch of these sequences, without noise."""
    client = federation.clients["a"]
    client.privacy.examples = ExampleNoise(CLIP, 0.0, 1, 0, "a")  # the denominator is 1
    federation.server.begin_round({"a": "g"}, 1, {"a": client.cut})
    batch = collate(federation.data["g"].task, features, 0)
    reply, _ = exchange(federation.server, client, batch, 1, 0, Ledger())
    client.backward(reply.gradients)
    found = torch.cat([p.grad.flatten().double() for p in client.trained()])
    return found, client.privacy.examples.norms


def test_neighbours_that_differ_in_a_question_of_many_windows_differ_by_the_clip(questions):
    federation = questions({"examples": {"clip": CLIP, "noise_multiplier": 1.5}})
    generator = torch.Generator().manual_seed(0)
    for parameter in federation.clients["a"].trained():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    features = federation.train_features("a")
    sizes = [len(windows_of(federation, "a", n)) for n in range(count_examples(features))]
    long = max(range(len(sizes)), key=sizes.__getitem__)
    others = [f for n in range(len(sizes)) if n != long for f in windows_of(federation, "a", n)][:4]
    assert sizes[long] >= 7
    with_it, norms = gradient(federation, [*others, *windows_of(federation, "a", long)])
    without, _ = gradient(federation, others)
    assert len(norms) == count_examples(others) + 1 and norms[-1] > CLIP  # the clip binds
    assert float((with_it - without).norm()) == pytest.approx(CLIP, rel=1e-4)
    alone = torch.stack([gradient(federation, [f])[0] for f in windows_of(federation, "a", long)])
    assert float(alone.sum(0).norm()) > 2 * CLIP  # one by one they would be several clips


def test_the_gradient_of_an_example_is_that_of_the_mean_over_its_windows(questions):
    federation = questions({"examples": {"clip": CLIP, "noise_multiplier": 1.5}})
    client = federation.clients["a"]
    for parameter in client.trained():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    long = next(w for n in range(4) if len(w := windows_of(federation, "a", n)) > 2)
    _, whole = gradient(federation, long)
    client.privacy.examples = None
    client.optimizer.zero_grad()
    reply, _ = exchange(federation.server, client, collate(federation.data["g"].task, long, 0), 1, 0, Ledger())
    client.backward(reply.gradients)
    plain = math.sqrt(sum(float(p.grad.double().square().sum()) for p in client.trained()))
    assert float(whole) == pytest.approx(plain, rel=1e-4)


def test_samples_are_of_examples_and_hold_all_windows(questions):
    federation = questions({"examples": {"clip": CLIP, "noise_multiplier": 1.5}})
    features = federation.train_features("a")
    whole = {n: len(windows_of(federation, "a", n)) for n in range(count_examples(features))}
    rate = batches_of(federation, "a").rate
    assert rate == 2 / len(whole) and len(features) > 2 * len(whole)
    drawn = 0
    for step in range(200):
        rows = [f["row"] for f in batch_of(federation, "a", step).features]
        drawn += len(set(rows))
        assert all(rows.count(r) == sum(f["row"] == r for f in features) for r in rows)
    assert drawn / 200 == pytest.approx(2, abs=0.3)


@pytest.mark.slow
def test_dp_sgd_counts_questions(questions):
    federation = questions({"examples": {"clip": CLIP, "noise_multiplier": 1.5}})
    from dp_accounting import dp_event
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    fewest = min(count_examples(federation.train_features(c)) for c in "abc")
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    step = dp_event.PoissonSampledDpEvent(2 / fewest, dp_event.GaussianDpEvent(1.5))
    accountant.compose(dp_event.SelfComposedDpEvent(step, 2 * 5))
    found = federation.protection.account.epsilon("updates", "g", 2)
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)
    assert federation.protection.units() == {"updates": "example (a row with all its windows)"}


def test_noise_on_activations_counts_the_tokens_of_all_windows(questions):
    federation = questions({"activations": {"clip": 1.0, "noise_multiplier": 20.0}}, batch_size=100, local_steps=1)
    longest = 0
    for client in "abc":
        tokens = {}
        for f in federation.train_features(client):
            tokens[f["row"]] = tokens.get(f["row"], 0) + len(f["input_ids"])
        longest = max(longest, *tokens.values())
    assert longest > 3 * 24
    # other words move each token by 2 clip, in each of two epochs
    sensitivity = 2 * math.sqrt(2 * longest)
    wanted = dp_accounting.get_epsilon_gaussian(20.0 / sensitivity, 1e-5)
    assert federation.protection.account.epsilon("activations", "g", 2) == pytest.approx(wanted, rel=1e-9)


def test_windows_of_one_row_get_one_randomised_label(make_federation):
    federation = make_federation()
    group = federation.data["g"]
    twice = [{**f, "labels": 0, "row": i // 5} for i, f in enumerate(group.train["a"] * 5)]
    object.__setattr__(group, "train", {"a": twice})
    found = randomise({"g": group}, LabelsConfig(epsilon=0.1), 0)["g"].train["a"]
    labels = [{f["labels"] for f in found if f["row"] == row} for row in {f["row"] for f in found}]
    assert all(len(each) == 1 for each in labels) and len(set.union(*labels)) == 2


@pytest.mark.parametrize("epsilon", [1e-300, 1e-30, 1e-9, 1000.0])
def test_the_corrected_loss_is_finite_at_the_limits_of_epsilon(make_federation, epsilon):
    task = CorrectedTask(make_federation().data["g"].task, epsilon)
    logits = torch.tensor([[3.0, -1.0], [0.0, 0.0]], requires_grad=True)
    loss, count = task.loss(logits, torch.tensor([0, 1]))
    loss.backward()
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    wanted = plain.item() if epsilon == 1000 else math.log(2)
    assert count == 2 and loss.item() == pytest.approx(wanted, rel=1e-6) and logits.grad.isfinite().all()


def test_texts_in_several_rows_are_said(make_federation, toy_csv, tmp_path):
    with open(toy_csv, encoding="utf-8") as file:
        lines = file.read().splitlines()
    (tmp_path / "twice.csv").write_text(
        "\n".join([*lines, *lines[1:31], lines[1]]) + "\n", encoding="utf-8", newline="\n"
    )
    group = {"task": "sequence-classification", "data": {"files": str(tmp_path / "twice.csv")}}
    labels = {"labels": {"epsilon": 2.0}}
    told = make_federation(task_groups={"g": group}, privacy=labels).protection.warnings()
    assert any("texts of g are in several training examples, one of them in" in text for text in told)
    assert not any(
        "several training" in text for text in make_federation(task_groups={"g": group}).protection.warnings()
    )
