"""MID: a trained bottleneck at the cut, as a part of the client's head."""

import copy

import pytest
import torch
from support.by_hand import batches_of
from support.rounds import exchange
from support.trained_runs import recorded, scores
from torch.distributions import Normal, kl_divergence

from atlas_cli.audit.evidence import Evidence
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.parties.party import as_inputs
from atlas_cli.inference.export.to_folder import export
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.models.bottleneck import Bottleneck, bottleneck_of
from atlas_cli.models.cut_parts import CutParts
from atlas_cli.models.halves.split import run_half
from atlas_cli.planning.memory.party_memory import bytes_of
from atlas_cli.planning.memory_of_plan import build_task_of, client_memory
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape, head_sent
from atlas_cli.privacy.mechanisms.mid import BottleneckNoise
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations

D, RANK = 32, 8
MID = {"privacy": {"mid": {"weight": 0.1}}, "training": {"labels": "client"}}
NUMBERS = 4 * D + 2 * RANK * D + D


@torch.no_grad()
def trained_bottleneck():
    torch.manual_seed(0)
    made = Bottleneck(D, RANK)
    for parameter in made.parameters():
        parameter.normal_(0, 0.3)
    return made


def test_what_is_sent_and_its_divergence_are_those_of_the_formula():
    made, z, noise = trained_bottleneck(), torch.randn(2, 5, D), torch.randn(2, 5, D)
    mean = (1 + made.gain) * z + made.shift
    deviation = torch.log1p(torch.exp(z @ made.down.weight.T @ made.up.weight.T + made.up.bias - 0.5))
    sent, divergence = made(z, noise)
    assert torch.allclose(sent, (1 + made.decoded_gain) * (mean + deviation * noise) + made.decoded_shift, atol=1e-5)
    assert torch.allclose(divergence, kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(-1), rtol=1e-4)


def test_it_begins_as_the_identity_with_noise_and_keeps_dtypes():
    z, noise = torch.randn(2, 5, D), torch.randn(2, 5, D)
    fresh = Bottleneck(D, RANK)
    assert torch.allclose(fresh(z, noise)[0], z + 0.4740770 * noise, atol=1e-6)
    sent, divergence = fresh(z.bfloat16(), noise)
    assert (sent.dtype, divergence.dtype) == (torch.bfloat16, torch.float32)


def test_noise_is_that_of_party_round_and_step_and_padding_does_not_count():
    head = CutParts(bottleneck=RANK).add_to(torch.nn.Linear(D, 2), D)
    z, mask = torch.zeros(2, 200, D), torch.ones(2, 200)
    mask[1, 3:] = 0
    sent, term = BottleneckNoise(0.5, 0, "a")(head, z, mask, 1, 2)
    assert float(sent.detach().std()) == pytest.approx(0.474, rel=0.02)
    assert BottleneckNoise(0.5, 0, "a")(head, z, mask, 1, 2)[0].equal(sent)
    for seed, name, when in ((1, "a", (1, 2)), (0, "b", (1, 2)), (0, "a", (2, 2)), (0, "a", (1, 3))):
        assert not BottleneckNoise(0.5, seed, name)(head, z, mask, *when)[0].equal(sent)
    z[1, 3:] = 100.0
    again = BottleneckNoise(0.5, 0, "a")(head, z, mask, 1, 2)[1]
    assert again.item() == pytest.approx(term.item())
    assert term.item() == pytest.approx(0.5 * D * float(kl_divergence(Normal(0.0, 0.4740770), Normal(0.0, 1.0))))


def test_gradients_of_a_step_are_those_of_loss_and_divergence(make_federation):
    federation = make_federation(**MID, engine={"fuse": "off"}, server={"rank": 0})
    client, batch = federation.clients["a"], next(batches_of(federation, "a"))
    bottleneck_of(client.head).load_state_dict(trained_bottleneck().state_dict())
    with torch.no_grad():
        for adapter in client.adapters.adapters.values():
            adapter.lora_B.normal_(0, 0.05)
    federation.server.begin_round({"a": "g"}, 1, {"a": client.cut})
    head, adapters = copy.deepcopy(client.head), copy.deepcopy(client.adapters)
    up = client.forward_batch(batch, 1, 0)
    inputs, mask = as_inputs(batch.inputs(), torch.device("cpu"))
    with adapters.attached(federation.base.model):
        z = run_half(federation.base.client_half(client.cut), mask, **inputs)
    sent, term = BottleneckNoise(0.1, 0, "a")(head, z, batch.attention_mask, 1, 0)
    assert torch.allclose(up.activations, sent, atol=1e-5)
    upper = run_half(federation.base.server_half(client.cut), batch.attention_mask, inputs_embeds=sent)
    loss, _ = federation.data["g"].task.loss(head(upper, batch.attention_mask), batch.labels)
    expected = torch.autograd.grad(loss + term, [*adapters.parameters(), *head.parameters()])
    stepped = {}
    client.step = lambda rate=None: stepped.update(gradients=[p.grad for p in client.trained()])
    down, _ = exchange(federation.server, client, batch, 1, 0, Ledger())
    client.apply_gradients(down.gradients)
    for found, wanted in zip(stepped["gradients"], expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_it_travels_with_the_head_and_its_bytes_are_foreseen(make_federation, make_config, train_quietly):
    federation = make_federation(privacy=MID["privacy"], training={**MID["training"], "rounds": 1})
    heads = [client.head for client in federation.clients.values()]
    began = {n: p.clone() for n, p in heads[0].named_parameters()}
    assert all(torch.equal(p, q) for p, q in zip(heads[0].parameters(), heads[1].parameters(), strict=True))
    train_quietly(federation)
    moved = {n for n, p in heads[0].named_parameters() if not torch.equal(p, began[n])}
    assert moved == {f"bottleneck.{n}" for n, _ in Bottleneck(D, RANK).named_parameters()} | {
        "classifier.weight",
        "classifier.bias",
    }
    merged = federation.client_heads["g"]
    for head in heads:  # all hold the merged one
        assert all(torch.equal(p, q) for p, q in zip(head.parameters(), merged.parameters(), strict=True))
    task, (more, less) = (
        build_task_of(federation.plan, "g", ["a", "b"]),
        (make_plan(make_config(**each)) for each in (MID, {**MID, "privacy": {}})),
    )
    sent, plain = (bytes_of(head_sent(plan, plan.by_name["a"], task).values()) for plan in (more, less))
    assert sent == federation.aggregator.members["a"].head_bytes() == plain + 4 * NUMBERS


@pytest.mark.slow
def test_memory_is_foreseen(make_config):
    plan = make_plan(make_config(**MID))
    task, shape = build_task_of(plan, "g", ["a", "b"]), Shape(4, 32, True)
    predicted, measured = client_memory(plan, plan.by_name["a"], task, shape), take_steps(plan, "a", shape, ["a", "b"])
    for part in ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "saved_activations", "cut_buffers"):
        assert getattr(predicted, part) == measured.parts[part], part
    assert measured.peak <= predicted.peak <= 1.06 * measured.peak


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one(make_federation, train_quietly):
    saved, (whole, again) = [], (make_federation(**MID) for _ in range(2))
    train_quietly(whole, checkpoint=lambda number: saved.append(copy.deepcopy(RunState(whole).capture())))
    RunState(again).restore(*saved[1])
    train_quietly(again, done=1)
    tensors, _ = RunState(again).capture()
    assert tensors.keys() == saved[2][0].keys() and any("bottleneck" in name for name in tensors)
    assert all(torch.equal(value, saved[2][0][name]) for name, value in tensors.items())


@pytest.mark.slow
def test_a_finished_run_predicts_as_it_was_scored_and_is_attacked_as_it_sent(make_toy_run, tmp_path):
    run = make_toy_run(**MID, audit={"record": {"rounds": [1, 2]}})
    loaded = open_model(run.path, group="g")
    assert bottleneck_of(loaded.model.head).gain.any()
    assert scores(loaded) == recorded(run, 2)
    assert loaded.changed_at_the_cut is not None
    with pytest.raises(ConfigError, match=r"privacy\.mid: .*trained bottleneck .* use atlas predict"):
        export(loaded, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    evidence = Evidence.of_run(run)
    step = next(step for step in evidence.steps if step.round == 2)
    party = evidence.party(step.client, 2)  # as the server knows it: what it would have sent is what it did send
    sent = party.forward(step.batch.inputs(), 2, step.number, None).activations
    assert torch.equal(sent, step.read(Activations).activations)
