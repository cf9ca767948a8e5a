"""The Python interface, by the calls that its documentation shows, on GPT-2 at its full size with random weights."""

import doctest
import inspect
import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch

import atlas_cli
from atlas_cli import (
    LoRAAdapter,
    SplitClient,
    SplitServer,
    create_message,
    federated_training_round,
    get_split_point,
)
from atlas_cli.config.schema.experiment import LoraConfig, OptimizerConfig, TrainingConfig
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.federation.parties.measured_memory import tensor_bytes
from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.files import resolve
from atlas_cli.models.frozen import load

CONFIG_FOLDER = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module", autouse=True)
def _offline():
    """Weights are drawn at random: whether a hub can be reached must not matter, or cost time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve, "hub_reachable", lambda: False)
        yield
    load.shared_base.cache_clear()  # half a gigabyte


def gpt2_client(client_id=0, rank_config=None, **options):
    ranks = {0: 8, 1: 16, 2: 8} if rank_config is None else rank_config
    options = {"model_name": "gpt2", "split_layer": 6, "device": "cpu", "init": "random", **options}
    return SplitClient(client_id=client_id, rank_config=ranks, **options)


def gpt2_server(**options):
    options = {"model_name": "gpt2", "split_layer": 6, "device": "cpu", "init": "random", **options}
    return SplitServer(**{"n_tasks": 3, "num_classes": 10, **options})


@pytest.mark.parametrize(("name", "layer"), [("gpt2", 6), ("bert", 6), ("llama", 16), ("gpt2-large", 18)])
def test_split_point_is_the_middle(name, layer):
    assert get_split_point(name) == layer


PUBLIC = """
    DeviceProfiler LoRAAdapter RankAllocator Result SplitClient SplitServer TaskClusterer build create_message
    federated_training_round get_split_point load_config load_run run
"""


def test_public_names():
    assert atlas_cli.__all__ == PUBLIC.split()
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = atlas_cli.nothing_such


@pytest.mark.slow
def test_the_example_of_every_public_name_gives_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIG_FOLDER / "data", tmp_path / "data")
    public = {name: getattr(atlas_cli, name) for name in atlas_cli.__all__}
    given = {**public, "Path": Path, "torch": torch}
    runner, finder = doctest.DocTestRunner(), doctest.DocTestParser()
    for name in sorted(public, key=lambda name: (name != "run", name)):  # others look at the run that it makes
        example = finder.get_doctest(inspect.getdoc(public[name]), dict(given), name, None, None)
        assert example.examples, name
        assert runner.run(example).failed == 0, name


@pytest.mark.slow
def test_prototype_calls():
    client = gpt2_client()
    server = gpt2_server()
    activations = client.compute_activations({"inputs": torch.randn(4, 768)})
    assert activations.shape == (4, 768)
    loss, gradients = server.compute_loss(activations, torch.randint(0, 10, (4,)), task_id=0)
    assert loss.shape == ()
    assert abs(loss.item() - math.log(10)) < 1.5
    assert gradients.shape == activations.shape
    assert gradients.abs().sum() > 0
    before = [p.detach().clone() for p in client.trained()]
    client.apply_gradients(gradients)
    changed = [not torch.equal(p, q) for p, q in zip(before, client.trained(), strict=True)]
    assert changed == [False, True] * 3  # B = 0 at first, so A has no gradient yet


def test_server_and_clients_share_one_frozen_base():
    client, other, server = gpt2_client(0), gpt2_client(1, 4), gpt2_server()
    assert client.base is other.base is server.base
    assert not any(p.requires_grad for p in client.base.model.parameters())
    held = {p.data_ptr() for p in client.half.parameters()}
    assert held <= {p.data_ptr() for p in client.base.model.parameters()}


@pytest.mark.parametrize("shape", [(4, 768), (2, 5, 768)])
def test_floats_are_embeddings(shape):
    client = gpt2_client()
    activations = client.compute_activations({"inputs": torch.randn(shape)})
    assert activations.shape == shape
    assert not activations.requires_grad
    loss, gradients = gpt2_server().compute_loss(activations, torch.zeros(shape[0], dtype=torch.int64), task_id=2)
    assert gradients.shape == shape and torch.isfinite(loss)
    client.apply_gradients(gradients)


def test_token_batches_with_padding_do_not_depend_on_what_is_padded():
    client, server = gpt2_client(), gpt2_server()
    ids = torch.randint(0, 50257, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    labels = torch.tensor([1, 2, 3])
    activations = client.compute_activations({"input_ids": ids, "attention_mask": mask})
    assert activations.shape == (3, 7, 768)
    loss, gradients = server.compute_loss(activations, labels, 1, attention_mask=mask)
    assert torch.equal(gradients[mask == 0], torch.zeros(8, 768))
    other = client.compute_activations({"input_ids": torch.where(mask == 1, ids, 7), "attention_mask": mask})
    assert server.compute_loss(other, labels, 1, attention_mask=mask)[0] == loss
    plain = client.compute_activations({"input_ids": ids})
    torch.testing.assert_close(plain[0], activations[0])


def test_unknown_task_is_an_error():
    with pytest.raises(ConfigError, match="no task group '3', only: 0, 1, 2"):
        gpt2_server().compute_loss(torch.randn(2, 768), torch.tensor([0, 1]), task_id=3)


@pytest.mark.parametrize(
    ("rank", "numbers"),
    # c_attn maps 768 to 2304: r * 3072 numbers a layer, six layers below the cut
    [(4, 73_728), (8, 147_456), (64, 1_179_648), ({0: 8, 1: 16, 2: 8}, 98_304), ({5: 4}, 12_288)],
)
def test_adapter_sizes_by_the_closed_form(rank, numbers):
    client = gpt2_client(rank_config=rank)
    assert sum(p.numel() for p in client.trained()) == numbers
    assert tensor_bytes(client.trained()) == 4 * numbers


def test_activations_of_a_sample_of_four_tokens_are_12_kib():
    activations = gpt2_client().compute_activations({"inputs": torch.randn(1, 4, 768)})
    message = create_message(0, "activations", {"activations": activations})
    assert (message.client, message.direction) == ("0", "up")
    assert message.payload_bytes == 4 * 768 * 4 == 12 * 1024
    assert 0 < message.bytes - message.payload_bytes < 200


def test_message_is_detached():
    weights = torch.randn(2, 2, requires_grad=True)
    assert not create_message("a", "head", {"w": weights * 2}, "down").tensors["w"].requires_grad


@pytest.fixture(scope="module")
def experiment():
    """Three clients of ranks 4, 8 and 64, two task groups, fixed batches of floats; six rounds."""
    torch.manual_seed(0)
    training = TrainingConfig(client_optimizer=OptimizerConfig(lr=2e-3), server_optimizer=OptimizerConfig(lr=2e-3))
    clients = [gpt2_client(i, rank, training=training) for i, rank in enumerate((4, 8, 64))]
    server = gpt2_server(n_tasks=2, training=training)
    data = {i: {"inputs": torch.randn(4, 768), "labels": torch.randint(0, 10, (4,))} for i in range(3)}
    groups = {0: [0, 1], 1: [2]}
    generator = torch.get_rng_state()
    rounds = [federated_training_round(clients, server, data, groups) for _ in range(6)]
    assert torch.equal(generator, torch.get_rng_state())  # the caller's random numbers are not used up
    return clients, server, data, groups, rounds


@pytest.mark.slow
def test_round_metrics(experiment):
    *_, rounds = experiment
    for metrics in rounds:
        assert set(metrics) == {"avg_loss", "losses", "group_losses", "bytes_up", "bytes_down"}
        losses = metrics["losses"]
        assert metrics["avg_loss"] == pytest.approx(sum(losses.values()) / 3)
        assert metrics["group_losses"] == {"0": pytest.approx((losses["0"] + losses["1"]) / 2), "1": losses["2"]}
    adapters = 4 * 3072 * 6 * (4 + 8 + 64)
    activations = 3 * (4 * 768 * 4 + 4 + 4 * 8)
    headers = 6 * 1500
    assert adapters + activations < rounds[0]["bytes_up"] < adapters + activations + headers
    assert adapters + 3 * 4 * 768 * 4 < rounds[0]["bytes_down"] < adapters + activations + headers


def test_loss_falls_on_fixed_batches(experiment):
    losses = [metrics["avg_loss"] for metrics in experiment[-1]]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 0.1


def test_clients_of_a_group_hold_what_was_delivered(experiment):
    clients = experiment[0]

    def first_rows(client, rank):
        state = {}
        for path, adapter in client.adapters.adapters.items():
            state[f"{path}.A"] = adapter.lora_A.detach()[:rank].contiguous()
            state[f"{path}.dB"] = (adapter.scaling * adapter.lora_B.detach()[:, :rank]).contiguous()
        return sha256_tensors(state)

    # alpha / r is a power of two at these ranks, so that the scale goes in and out exactly
    assert first_rows(clients[0], 4) == first_rows(clients[1], 4) != first_rows(clients[2], 4)
    assert any(adapter.lora_B.abs().sum() > 0 for adapter in clients[1].adapters.adapters.values())


def test_without_aggregation_clients_differ():
    clients = [gpt2_client(i, 4) for i in range(2)]
    data = {i: {"inputs": torch.randn(4, 768)} for i in range(2)}  # no labels: drawn, as for a smoke test
    metrics = federated_training_round(clients, gpt2_server(), data, {0: [0, 1]}, aggregation="none")
    held = [sha256_tensors(client.adapters.state()) for client in clients]
    assert held[0] != held[1]
    assert metrics["bytes_up"] < 100_000


def test_token_batches_train_a_round():
    ids = torch.randint(0, 50257, (2, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([3, 4])}
    clients, server = [gpt2_client()], gpt2_server()
    losses = [federated_training_round(clients, server, {0: batch}, {0: [0]})["avg_loss"] for _ in range(3)]
    assert losses[2] < losses[0]


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        ("no data", "client 1 needs data and a task group"),
        ("no group", "client 1 needs data and a task group"),
        ("other cut", "do not hold one model between them"),
        ("other weights", "do not hold one model between them"),
        ("labels on the client", "keeps labels on the server"),
        ("method", "'zero-pat' is not known; expected one of: .*; did you mean zero-pad"),
    ],
)
def test_rounds_that_cannot_be(problem, says):
    second = {"split_layer": 5} if problem == "other cut" else {}
    if problem == "other weights":
        base = gpt2_client().base
        second = {"base": load.FrozenBase(base.model, base.lm_head, base.family, "other", "random", "0" * 64)}
    clients = [gpt2_client(0, {0: 2}), gpt2_client(1, {0: 2}, **second)]
    data = {i: {"inputs": torch.randn(2, 768)} for i in range(1 if problem == "no data" else 2)}
    groups = {0: [0]} if problem == "no group" else {0: [0, 1]}
    server = gpt2_server(training=TrainingConfig(labels="client" if problem == "labels on the client" else "server"))
    with pytest.raises(AtlasError, match=says):
        federated_training_round(clients, server, data, groups, "zero-pat" if problem == "method" else "zero-pad")


def test_lora_adapter_takes_two_and_three_dimensions():
    adapter = LoRAAdapter(8, 6, rank=4, alpha=16)
    with torch.no_grad():
        adapter.lora_B.normal_()
    x = torch.randn(2, 3, 8)
    expected = 4.0 * x @ adapter.lora_A.T @ adapter.lora_B.T
    torch.testing.assert_close(adapter(x), expected)
    torch.testing.assert_close(adapter(x[0]), expected[0])


def test_dropout_repeats_by_seed():
    lora = LoraConfig(dropout=0.5)
    ids = {"input_ids": torch.randint(0, 50257, (2, 6))}

    def activations(seed):
        client = gpt2_client(lora=lora, seed=seed, base=gpt2_client().base)
        with torch.no_grad():
            for adapter in client.adapters.adapters.values():
                adapter.lora_B.fill_(0.1)
        return client.compute_activations(ids)

    assert torch.equal(activations(0), activations(0))
    assert not torch.equal(activations(0), activations(1))
