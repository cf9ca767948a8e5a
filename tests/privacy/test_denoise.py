"""A denoiser of features at the client, as a part of its head."""

import copy

import pytest
import torch
from support.by_hand import batches_of
from support.rounds import exchange
from support.trained_runs import recorded, scores

from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.parties.party import TrainedModel, as_inputs
from atlas_cli.inference.export.to_folder import export
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.models.denoiser import AtTheCut, Denoiser, denoised
from atlas_cli.models.halves.split import run_half
from atlas_cli.planning.memory.party_memory import bytes_of
from atlas_cli.planning.memory_of_plan import build_task_of, client_memory
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape, head_sent
from atlas_cli.privacy.mechanisms.activations import ActivationNoise
from atlas_cli.wire.ledger import Ledger

D, RANK = 32, 8
NOISE = {"activations": {"clip": 4.0, "noise_multiplier": 0.1}}
DENOISE = {"privacy": {**NOISE, "denoise": {"rank": RANK}}, "training": {"labels": "client"}}
NUMBERS = D + 3 * RANK * D


@torch.no_grad()
def fill(denoiser):
    torch.manual_seed(0)
    for parameter in denoiser.parameters():
        parameter.normal_(0, 0.3)


def test_it_is_the_formula_begins_as_nothing_and_keeps_dtypes():
    made, features, sent, clean = Denoiser(D, RANK), *(torch.randn(2, 5, D) for _ in range(3))
    cut = AtTheCut.of(sent, clean)
    assert torch.equal(made(features, cut), features)
    fill(made)
    known = torch.cat([sent - clean, clean], -1) @ made.down.weight.T @ made.up.weight.T
    torch.testing.assert_close(made(features, cut), features - made.gain * (sent - clean) + known)
    assert made(features.bfloat16(), cut).dtype == torch.bfloat16
    head = torch.nn.Linear(D, 2)
    assert denoised(head, features, cut) is features
    head.add_module("denoiser", made)
    assert denoised(head, features, None) is features  # nothing was changed at the cut
    assert torch.equal(denoised(head, features, cut), made(features, cut))


def test_it_learns_to_take_out_what_noise_does_to_features():
    """Of a server whose half is linear nothing is left of the noise."""
    draw = torch.Generator().manual_seed(0)
    gain, low = torch.rand(D, generator=draw), torch.randn(D, 2, generator=draw) / 4
    made = Denoiser(D, RANK)
    optimizer = torch.optim.Adam(made.parameters(), 0.02)
    for _ in range(400):
        clean, error = (torch.randn(64, 1, D, generator=draw) for _ in range(2))
        came = clean + gain * error + error @ low @ low.T
        loss = (made(came, AtTheCut(error, clean)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_gradients_of_a_step_are_those_of_the_loss_of_denoised_features(make_federation):
    federation = make_federation(**DENOISE, engine={"fuse": "off"}, server={"rank": 0})
    client, batch = federation.clients["a"], next(batches_of(federation, "a"))
    fill(client.head.denoiser)
    with torch.no_grad():
        for adapter in client.adapters.adapters.values():
            adapter.lora_B.normal_(0, 0.05)
    federation.server.begin_round({"a": "g"}, 1, {"a": client.cut})
    head, adapters = copy.deepcopy(client.head), copy.deepcopy(client.adapters)
    inputs, mask = as_inputs(batch.inputs(), torch.device("cpu"))
    with adapters.attached(federation.base.model):
        z = run_half(federation.base.client_half(client.cut), mask, **inputs)
    real = z * mask.unsqueeze(-1)
    sent = ActivationNoise(4.0, 0.1, 0, "a")(real, 1, 0)
    upper = run_half(federation.base.server_half(client.cut), mask, inputs_embeds=sent)
    features = head.denoiser(upper, AtTheCut.of(sent, real))
    loss, _ = federation.data["g"].task.loss(head(features, mask), batch.labels)
    expected = torch.autograd.grad(loss, [*adapters.parameters(), *head.parameters()])
    stepped = {}
    client.step = lambda rate=None: stepped.update(gradients=[p.grad for p in client.trained()])
    down, _ = exchange(federation.server, client, batch, 1, 0, Ledger())
    client.apply_gradients(down.gradients)
    for found, wanted in zip(stepped["gradients"], expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


class Told(Denoiser):
    """Keeps what it was told of the cut."""

    def forward(self, features_BTD, cut):
        self.cut = cut
        return features_BTD


def test_it_reads_the_client_halfs_own_activation_in_training_and_in_evaluation(make_federation):
    federation = make_federation(privacy={**DENOISE["privacy"], "mid": {}}, training=DENOISE["training"])
    client, batch = federation.clients["a"], next(batches_of(federation, "a"))
    told = client.head.denoiser = Told(D, RANK)
    federation.server.begin_round({"a": "g"}, 1, {"a": client.cut})
    inputs, mask = as_inputs(batch.inputs(), torch.device("cpu"))
    with torch.no_grad(), client.adapters.attached(federation.base.model):
        z = run_half(federation.base.client_half(client.cut), mask, **inputs)
    exchange(federation.server, client, batch, 1, 0, Ledger())
    torch.testing.assert_close(told.cut.clean, z * mask.unsqueeze(-1))
    del told.cut
    with torch.no_grad(), federation.evaluator.passes(TrainedModel(client.adapters, client.head)) as logits_of:
        logits_of(batch, 0)
    torch.testing.assert_close(told.cut.clean, z * mask.unsqueeze(-1))


@pytest.mark.slow
def test_it_travels_with_the_head_and_its_bytes_are_foreseen(make_federation, make_config, train_quietly):
    federation = make_federation(privacy=DENOISE["privacy"], training={**DENOISE["training"], "rounds": 1})
    heads = [client.head for client in federation.clients.values()]
    train_quietly(federation)
    assert heads[0].denoiser.gain.any() and heads[0].denoiser.up.weight.any()
    merged = federation.client_heads["g"]
    for head in heads:  # all hold the merged one
        assert all(torch.equal(p, q) for p, q in zip(head.parameters(), merged.parameters(), strict=True))
    more, less = (make_plan(make_config(**each)) for each in (DENOISE, {**DENOISE, "privacy": NOISE}))
    task = build_task_of(federation.plan, "g", ["a", "b"])
    sent, plain = (bytes_of(head_sent(plan, plan.by_name["a"], task).values()) for plan in (more, less))
    assert sent == federation.aggregator.members["a"].head_bytes() == plain + 4 * NUMBERS


@pytest.mark.slow
@pytest.mark.parametrize("others", [{}, {"mid": {}}])
def test_memory_is_foreseen(make_config, others):
    plan = make_plan(make_config(**{**DENOISE, "privacy": {**DENOISE["privacy"], **others}}))
    task, shape = build_task_of(plan, "g", ["a", "b"]), Shape(4, 32, True)
    predicted, measured = client_memory(plan, plan.by_name["a"], task, shape), take_steps(plan, "a", shape, ["a", "b"])
    for part in ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "saved_activations", "cut_buffers"):
        assert getattr(predicted, part) == measured.parts[part], part
    assert measured.peak <= predicted.peak <= 1.06 * measured.peak


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one(make_federation, train_quietly):
    saved, (whole, again) = [], (make_federation(**DENOISE) for _ in range(2))
    train_quietly(whole, checkpoint=lambda number: saved.append(copy.deepcopy(RunState(whole).capture())))
    RunState(again).restore(*saved[1])
    train_quietly(again, done=1)
    tensors, _ = RunState(again).capture()
    assert tensors.keys() == saved[2][0].keys() and any("denoiser" in name for name in tensors)
    assert all(torch.equal(value, saved[2][0][name]) for name, value in tensors.items())


def test_language_models_have_no_head_for_it(make_config):
    with pytest.raises(ConfigError, match=r"privacy\.denoise: is for tasks with a head of their own"):
        make_plan(make_config("gpt2", **DENOISE, task_groups={"g": {"task": "causal-lm"}}))


@pytest.mark.slow
def test_a_finished_run_predicts_as_it_was_scored(make_toy_run, tmp_path):
    run = make_toy_run(**DENOISE)
    loaded = open_model(run.path, group="g")
    assert loaded.model.head.denoiser.gain.any()
    assert scores(loaded) == recorded(run, 2)
    with pytest.raises(ConfigError, match=r"privacy\.denoise: .*trained denoiser .* use atlas predict"):
        export(loaded, tmp_path / "new")
