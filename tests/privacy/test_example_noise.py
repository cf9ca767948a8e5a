"""DP-SGD: gradients of single examples are exact, clipped one by one, and their noise has the stated variance."""

import copy

import pytest
import torch
from support.rounds import exchange
from support.slow import slow
from support.tiny_models import FAMILIES

from atlas_cli import SplitClient, SplitServer
from atlas_cli.config.schema.experiment import TrainingConfig
from atlas_cli.data.collate import Batch, collate, poisson_indices
from atlas_cli.errors import ConfigError
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.models.frozen.load import shared_base
from atlas_cli.planning.plan import make_plan
from atlas_cli.privacy.account.norms import Norms
from atlas_cli.privacy.mechanisms.examples import ExampleNoise
from atlas_cli.tasks import build as build_task
from atlas_cli.wire.ledger import Ledger

U_SHAPED = {"training": {"labels": "client"}, "server": {"rank": 0}, "aggregation": {"weights": "uniform"}}


def dp_sgd(**noise):
    return {**U_SHAPED, "privacy": {"examples": {"clip": 0.1, "noise_multiplier": 1.0, **noise}}}


@pytest.fixture
def prepared(make_federation):
    """A federation with DP-SGD whose adapters and head are not zero, and a padded batch of client a."""

    def make(family, noise, **changes):
        federation = make_federation(family, **{**dp_sgd(**noise), **changes})
        client = federation.clients["a"]
        generator = torch.Generator().manual_seed(0)
        for parameter in client.trained():
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        features = sorted(federation.train_features("a"), key=lambda f: len(f["input_ids"]))
        batch = collate(federation.data["g"].task, [features[0], features[-1], features[len(features) // 2]], 0)
        federation.server.begin_round({"a": "g"}, 1, {"a": client.cut})
        return federation, client, batch

    return make


def one_by_one(server, client, batch):
    """Gradients of batches of one example, without DP-SGD."""
    found = []
    for i in range(batch.n_examples):
        row = copy.copy(batch)
        row.features = batch.features[i : i + 1]
        for name in ("input_ids", "attention_mask", "token_type_ids", "labels"):
            if getattr(batch, name) is not None:
                setattr(row, name, getattr(batch, name)[i : i + 1])
        reply, _ = exchange(server, client, row, 1, 0, Ledger())
        client.backward(reply.gradients)
        found.append([p.grad.clone() for p in client.trained()])
        client.optimizer.zero_grad(set_to_none=True)
    return [torch.stack(each) for each in zip(*found, strict=True)]


ROUNDING = 25 * torch.finfo(torch.float32).eps  # of the norm; kernels of other CPUs sum in other orders


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != slow("deberta-v2")[0]])
def test_gradients_of_examples_are_those_of_batches_of_one(model_folder, family):
    task, training = build_task("sequence-classification", ["x", "y", "z"], "mean"), TrainingConfig(labels="client")
    common = {"base": shared_base(model_folder(family), "pretrained", torch.device("cpu"), 0), "training": training}
    client = SplitClient("a", None, 3, 2, task=task, head=build_head(common["base"], task, 0, "g", "cpu"), **common)
    server = SplitServer(tasks={"g": task}, split_layer=2, **common)
    server.begin_round({"a": "g"}, 1)
    for parameter in client.trained():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    ids, mask = torch.arange(5, 23).view(3, 6), torch.tensor([[1] * 6, [1] * 2 + [0] * 4, [1] * 5 + [0]])
    batch = Batch(ids, mask, None, torch.tensor([0, 2, 1]), [{"input_ids": [0] * int(n)} for n in mask.sum(1)])
    compare(server, client, batch, ExampleNoise(1.0, 1.0, 4, 0, "a"))


@pytest.fixture
def deberta(make_config, model_folder):
    """A config with DP-SGD on DeBERTa, whose query and key layers make relative positions for a whole batch."""
    return lambda **changes: make_config(**dp_sgd(), model={"name": model_folder("deberta-v2")}, **changes)


def test_adapters_that_see_what_is_of_no_example_are_refused(deberta):
    with pytest.raises(
        ConfigError, match=r"privacy\.examples: .*query_proj and .*key_proj of deberta-v2 make"
    ) as error:
        make_plan(deberta())
    assert "among attention.self.value_proj, attention.output.dense" in str(error.value)
    make_plan(deberta(lora={"targets": ["value_proj"]}))


def compare(server, client, batch, noise):
    wanted = one_by_one(server, client, batch)
    kept = {}
    noise.privatise = lambda parameters, adapters, number, step: kept.update(noise.gradients(adapters))
    client.privacy.examples = noise
    reply, _ = exchange(server, client, batch, 1, 0, Ledger())
    client.backward(reply.gradients)
    assert len(kept) == len(wanted) and all(w.abs().max() > 1e-5 for w in wanted)
    for parameter, other in zip(client.trained(), wanted, strict=True):
        assert (kept[parameter] - other).norm() <= ROUNDING * other.norm()


def test_examples_of_a_language_model_weigh_alike_whatever_their_length(prepared, lines):
    federation, client, batch = prepared("gpt2", {}, task_groups=lines)
    noise, client.privacy.examples = client.privacy.examples, None
    compare(federation.server, client, batch, noise)


def test_each_example_is_clipped_and_the_denominator_is_the_expected_size(prepared):
    federation, client, batch = prepared("bert", {"noise_multiplier": 0.0})
    noise, client.privacy.examples = client.privacy.examples, None
    gradients = one_by_one(federation.server, client, batch)
    client.privacy.examples = noise
    reply, _ = exchange(federation.server, client, batch, 1, 0, Ledger())
    client.backward(reply.gradients)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    assert (norms > 0.1).any() and torch.allclose(noise.norms.float(), norms, rtol=1e-4)
    found, clipped = noise.of_round(), norms.clamp(max=0.1)
    assert (found.before, found.clipped) == (pytest.approx(float(norms.mean())), pytest.approx(float(clipped.mean())))
    assert (found.clip_fraction, found.noise_to_signal) == (pytest.approx(float((norms > 0.1).float().mean())), 0)
    assert found.sent == pytest.approx(float(torch.cat([p.grad.flatten() for p in client.trained()]).norm()))
    for parameter, each in zip(client.trained(), gradients, strict=True):
        clipped = each * (0.1 / norms).clamp(max=1).view(-1, *[1] * (each.dim() - 1))
        assert torch.allclose(parameter.grad, clipped.sum(0) / 4, atol=1e-7)  # batch_size is 4, the sample has 3


def test_an_empty_sample_steps_with_noise_of_the_stated_deviation(prepared):
    _, client, _ = prepared("bert", {"clip": 2.0, "noise_multiplier": 3.0})
    privacy = client.privacy
    privacy.privatise(client.trained(), client.adapters, (2, 1))
    first = torch.cat([p.grad.flatten() for p in client.trained()])
    assert float(first.std()) == pytest.approx(2.0 * 3.0 / 4, rel=0.05)
    assert privacy.examples.of_round() == Norms(0.0, 0.0, pytest.approx(float(first.norm())), 0.0, None)
    privacy.privatise(client.trained(), client.adapters, (2, 1))
    assert torch.cat([p.grad.flatten() for p in client.trained()]).equal(first)
    privacy.privatise(client.trained(), client.adapters, (2, 2))
    assert not torch.cat([p.grad.flatten() for p in client.trained()]).equal(first)


def test_without_noise_and_clipping_a_full_sample_is_an_ordinary_step(prepared):
    federation, client, batch = prepared("bert", {"clip": 1e6, "noise_multiplier": 0.0})
    noise, client.privacy.examples = client.privacy.examples, None
    reply, _ = exchange(federation.server, client, batch, 1, 0, Ledger())
    client.backward(reply.gradients)
    plain = [p.grad.clone() for p in client.trained()]
    client.privacy.examples = ExampleNoise(noise.clip, 0.0, batch.n_examples, 0, "a")
    reply, _ = exchange(federation.server, client, batch, 1, 0, Ledger())
    client.backward(reply.gradients)
    assert all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(client.trained(), plain, strict=True))


def test_poisson_samples():
    sizes = [len(poisson_indices(100, 0.2, 0, "a", step)) for step in range(300)]
    assert sum(sizes) / 300 == pytest.approx(20, abs=1) and min(sizes) < 14 < 26 < max(sizes)
    assert poisson_indices(100, 0.2, 0, "a", 5) == poisson_indices(100, 0.2, 0, "a", 5)
    assert poisson_indices(3, 1.0, 0, "a", 0) == [0, 1, 2]


@pytest.mark.slow
def test_a_run_that_aims_at_an_epsilon_ends_with_it(make_federation, train_quietly):
    target = {**U_SHAPED, "training": {"labels": "client", "batch_size": 1, "local_steps": 6}}
    federation = make_federation(**target, privacy={"examples": {"clip": 0.5, "epsilon": 4.0}})
    recorder = train_quietly(federation)
    spent = [line["epsilon"]["updates"] for line in recorder.metrics]
    assert spent[0] == 0 < spent[1] < spent[2] and 3.9 < spent[2] <= 4.0
    assert recorder.metrics[2]["epsilon"]["activations"] == "infinite"
    assert {line["examples"] for line in recorder.metrics[1:]} != {18}  # samples vary in size, some are empty


@pytest.mark.slow
def test_whole_clients_step_with_clipped_gradients_of_examples(make_federation):
    noise = {"examples": {"clip": 0.1, "noise_multiplier": 0.0}}
    sgd = {"client_optimizer": {"name": "sgd", "lr": 1.0}, "server_optimizer": {"name": "sgd", "lr": 1.0}}
    changes = {"mode": "federated", "aggregation": {"weights": "uniform"}, "training": {**sgd, "max_grad_norm": None}}
    federation, plain = make_federation(**changes, privacy=noise), make_federation(**changes)
    batch = collate(federation.data["g"].task, federation.train_features("a")[:3], 0)
    before = [p.detach().clone() for p in plain.clients["a"].trained()]
    gradients = []
    for i in range(3):
        row = collate(plain.data["g"].task, plain.train_features("a")[i : i + 1], 0)
        plain.clients["a"].train_on(row.inputs(), row.labels, 1, 0)
        gradients.append([b - p.detach() for b, p in zip(before, plain.clients["a"].trained(), strict=True)])
        for parameter, value in zip(plain.clients["a"].trained(), before, strict=True):
            parameter.data.copy_(value)
    norms = [torch.cat([g.flatten() for g in each]).norm() for each in gradients]
    federation.clients["a"].train_on(batch.inputs(), batch.labels, 1, 0)
    for j, parameter in enumerate(federation.clients["a"].trained()):
        clipped = sum(each[j] * min(1.0, 0.1 / float(n)) for each, n in zip(gradients, norms, strict=True)) / 4
        assert torch.allclose(before[j] - parameter.detach(), clipped, atol=1e-6)
    assert max(norms) > 0.1


@pytest.mark.slow
def test_a_federated_run_sends_nothing_but_noisy_updates(make_federation, train_quietly):
    changes = {"mode": "federated", "server": {"rank": 2}, "aggregation": {"weights": "uniform"}}
    noise = {"examples": {"clip": 0.1, "noise_multiplier": 2.0}}
    federation = make_federation(**changes, privacy=noise, training={"batch_size": 1, "local_steps": 6})
    last = train_quietly(federation).metrics[-1]["epsilon"]
    assert 0 < last.pop("updates") < 5 and set(last.values()) == {0.0}
