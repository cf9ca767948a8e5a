"""Clients that learn by forward passes: the estimate of the gradient, what is kept and restored, and whole runs."""

import pytest
import torch
from support.elsewhere import Hosts, same
from support.elsewhere import run as run_with
from support.real_client import batch_of, make_base
from support.slow import slow
from transformers import GPT2Config

from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.zeroth_order_client import ZerothOrderClient
from atlas_cli.planning.devices.cost import block_shapes, client_step
from atlas_cli.testing.flops import counted

LEARNS = {"learns": "zeroth-order"}
PATH, RANK, PROBES = "h.0.mlp.c_proj", 2, 4


@pytest.fixture
def linear():
    """A client whose output is linear in what it trains: B behind the last layer of its last block."""
    torch.manual_seed(0)
    base = make_base(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=16))

    def make(kind=ZerothOrderClient, rank=RANK, **training):
        lora = LoraConfig.model_validate({"targets": ["mlp.c_proj"]})
        changed = TrainingConfig.model_validate({"zeroth_order": {"probes": PROBES, "smoothing": 0.5}, **training})
        client = kind("a", base, 1, {PATH: rank}, Setting(lora, changed))
        client.train_only(("B",))
        return client

    return make


def gradient(client, batch, at_cut, step=0):
    client.forward(batch, 1, step, None)
    client.backward(at_cut)
    (parameter,) = client.trained()
    found, parameter.grad = parameter.grad.clone(), None
    return found


@pytest.mark.slow
def test_estimate_is_unbiased_and_has_the_variance_of_its_probes(linear, monkeypatch):
    """E|g - J' lambda|^2 = (d + 1) / P |J' lambda|^2, whatever the smoothing; 1,000 draws tell it to 10 %."""
    client, draws = linear(), 1000
    batch = batch_of(client.base, 2, 4, padded=True)
    at_cut = torch.randn(2, 4, 8) * batch["attention_mask"].unsqueeze(-1)
    exact = gradient(linear(SplitClient), batch, at_cut)
    (B,) = client.trained()

    def derivative():
        for direction in torch.eye(B.numel()):
            with torch.no_grad():
                B.copy_(direction.view_as(B))
            yield client.forward(batch, 1, 0, None).activations - at_0

    at_0 = client.forward(batch, 1, 0, None).activations
    J = torch.stack(list(derivative()), -1)
    torch.testing.assert_close((J * at_cut.unsqueeze(-1)).sum((0, 1, 2)).view_as(B), exact)  # it is linear
    B.data.zero_()
    real = gradient(client, batch, at_cut)
    monkeypatch.setattr(client, "_outputs", lambda *_: at_0 + J @ B.flatten())  # as its blocks, for less
    torch.testing.assert_close(gradient(client, batch, at_cut), real, rtol=1e-4, atol=1e-5)
    client.forward(batch, 1, 0, None)
    inputs, sent, found = client._inputs, client._activations, []
    for step in range(draws):
        client.now, client._inputs, client._activations = (1, step), inputs, sent
        client.backward(at_cut)
        found.append(B.grad.clone())
    squared, expected = float(exact.square().sum()), (exact.numel() + 1) / PROBES
    errors = torch.stack(found) - exact
    assert float(errors.square().sum((1, 2)).mean()) / squared == pytest.approx(expected, rel=0.1)
    assert float(errors.mean(0).square().sum()) / squared < 2 * expected / draws


def test_adapters_are_restored_and_a_component_is_drawn_alike_at_any_rank(linear):
    client, larger = linear(), linear(rank=RANK + 1)
    batch, at_cut = batch_of(client.base, 2, 4, padded=False), torch.randn(2, 4, 8)
    before = {name: tensor.clone() for name, tensor in client.adapters.state().items()}
    first = gradient(client, batch, at_cut)
    assert all(tensor.equal(before[name]) for name, tensor in client.adapters.state().items())
    assert gradient(client, batch, at_cut).equal(first) and not gradient(client, batch, at_cut, 1).equal(first)
    client.now = larger.now = 1, 0
    (ours,), (theirs,) = client._perturbation(0), larger._perturbation(0)
    assert theirs[:, :RANK].equal(ours) and not theirs[:, RANK].equal(ours[:, 0])
    other = linear()
    other.name = "b"
    assert not gradient(other, batch, at_cut).equal(first)


def test_a_failing_probe_leaves_adapters_as_they_were(linear, monkeypatch):
    client = linear()
    before = client.adapters.state()[f"{PATH}.lora_B"].clone()
    client.forward(batch_of(client.base, 2, 4, padded=False), 1, 0, None)

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_outputs", fails)
    with pytest.raises(KeyboardInterrupt):
        client.backward(torch.randn(2, 4, 8))
    assert client.adapters.state()[f"{PATH}.lora_B"].equal(before)


def test_flops_are_those_that_torch_counts(linear):
    client = linear()
    batch = batch_of(client.base, 2, 4, padded=True)
    said = client_step(block_shapes(client.base.family, client.base.config), 1, client.ranks, 2, 4, probes=PROBES)
    _, forward = counted(lambda: client.forward(batch, 1, 0, None))
    _, after = counted(lambda: client.backward(torch.ones(2, 4, 8)))
    assert (said.forward, said.backward) == (forward, after)


def test_keeps_no_graph(linear):
    client = linear()
    usage = client.measure()
    (B,) = client.trained()
    gradient(client, batch_of(client.base, 2, 4, padded=False), torch.randn(2, 4, 8))
    assert (usage.saved_activations, usage.cut_buffers, usage.gradients) == (0, 2 * 2 * 4 * 8 * 4, B.nbytes)


@pytest.mark.slow
def test_learns_with_a_server_that_trains_a_head_alone(make_federation, train_quietly):
    training = {"local_steps": 5, "zeroth_order": {"probes": 2}}
    federation = make_federation(clients={name: LEARNS for name in "abc"}, training=training, server={"rank": 0})
    recorder = train_quietly(federation)
    losses = [line["train_loss"] for line in recorder.metrics if line["round"]]
    assert losses[-1] < losses[0]
    assert all(a.lora_B.any() for a in federation.aggregator.groups["g"].adapters.adapters.values())


MIXED = {"a": LEARNS, "b": {"task_group": "g", "learns": "frozen", "rank": 0}, "c": {"learns": "auxiliary"}}


@pytest.mark.parametrize("update", ["pooled", *slow("sequential")])
def test_kinds_share_a_group_elsewhere_as_in_one_process(make_federation, update):
    training = {"server_update": update, "local_steps": 2}
    plain, remote = (make_federation(engine={"fuse": "off"}, clients=MIXED, training=training) for _ in range(2))
    same(run_with(remote, Hosts(remote)), run_with(plain))


@pytest.mark.slow
def test_kinds_share_a_group_put_away_or_resumed_as_in_memory(make_federation, train_quietly, tmp_path):
    changes = {"clients": MIXED, "aggregation": {"method": "delta-svd"}, "training": {"cohort": 0.5, "local_steps": 2}}
    away = make_federation(**changes, engine={"offload": "1 KiB"}, output={"dir": str(tmp_path)})
    plain = make_federation(**changes)
    saved = []
    lines = [train_quietly(plain, checkpoint=lambda _: saved.append(RunState(plain).capture())).metrics]
    lines.append(train_quietly(away).metrics)
    away.close()
    assert len({str([line["train_loss"] for line in of_run if line["round"]]) for of_run in lines}) == 1
    for done, state in enumerate(saved[:-1]):
        resumed = make_federation(**changes)
        RunState(resumed).restore(*state)
        train_quietly(resumed, done=done)
        (tensors, values), (expected, others) = RunState(resumed).capture(), saved[-1]
        assert values == others and all(tensor.equal(expected[name]) for name, tensor in tensors.items())
