"""Parties whose frozen weights are quantised: what they compute, hold, are sent and are proved to be."""

import math

import pytest
import torch
from support.by_hand import batches_of
from support.merging import asked
from support.quantized import with_dense_weights
from support.slow import slow, slow_but
from support.tiny_models import tiny_model

from atlas_cli import discovery
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.experiment.split_check import require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.models.frozen.cast import is_unchanged
from atlas_cli.models.frozen.quantized import Quantized
from atlas_cli.models.frozen.weight_format import quantized_bytes
from atlas_cli.planning.memory_of_plan import Shape, predict
from atlas_cli.planning.plan import make_plan

NF4 = {"quantization": "nf4"}
ONE = {"clients": {"a": NF4}}


@pytest.mark.parametrize("family", ["gpt2", *slow("bert", "llama", "distilbert")])
def test_the_split_is_proved_against_the_quantised_model(family, make_federation):
    made = make_federation(family, model={"quantization": "int8"}, clients={"a": NF4, "b": {"quantization": "none"}})
    a, b, c = (made.clients[name].base for name in "abc")
    assert [base.quantization for base in (a, b, c)] == ["nf4", "none", "int8"] and c is made.base
    checks = {check.quantization: check for check in verify_split(made)}
    require_verified(list(checks.values()))
    assert set(checks) == {"nf4", "int8", None}
    for check in checks.values():
        assert max(check.loss_difference, check.gradient_difference) <= 1e-6 and check.gradient_norm > 1e-4
        assert check.packed_gradient_difference <= 1e-5 and check.server_quantization == "int8"
    assert checks["nf4"].rounding == a.rounding > checks["int8"].rounding == c.rounding > 0
    assert "layer 2 in nf4: loss differs by" in checks["nf4"].sentence()
    assert f"from the base by up to {a.rounding:.2g}" in checks["nf4"].sentence()


def test_a_changed_weight_is_not_trained_with(make_federation):
    made = make_federation("gpt2", **ONE)
    assert "quantization" not in verify_split(made)[-1].record()
    layer = next(m for m in made.clients["a"].half.modules() if isinstance(m, Quantized))
    layer.packed[3] ^= 1
    with pytest.raises(AtlasError, match=r"clients of task group g hold in nf4 are not the model's"):
        require_verified(verify_split(made))


@pytest.mark.slow
def test_a_base_change_stays_beside_the_quantised_weights(make_federation, train_quietly):
    """After a merge of ``flora`` the adapters are 0: a client runs the values of its bits plus T, in float32."""
    fast = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}, "rounds": 1}
    made = make_federation("gpt2", **ONE, aggregation={"method": "flora"}, training=fast)
    train_quietly(made)
    a = made.clients["a"]
    batch = next(batches_of(made, "a"))
    found = a.forward(batch.inputs(), 2, 0, None).activations
    whole = tiny_model("gpt2").requires_grad_(False)
    with_dense_weights(whole.base_model, a.half)
    for path, pieces in a.adapters.frozen.items():
        weight = whole.base_model.get_submodule(path).weight
        for A, B in pieces:
            weight += (B @ A).t()
    assert a.adapters.frozen and is_unchanged(a.base)
    expected = whole.base_model(**batch.inputs(), output_hidden_states=True).hidden_states[2]
    real = batch.attention_mask.bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", slow_but(discovery.names("aggregation.methods"), "fedex"))
def test_every_method_trains_with_quantised_weights(method, make_federation, train_quietly):
    one_step = {"training": {"local_steps": 1}}
    made = make_federation(model={"quantization": "int8"}, **ONE, aggregation=asked(method), **one_step)
    recorder = train_quietly(made)  # every delivery is compared by hash, and every byte with its closed form
    assert all(math.isfinite(m["train_loss"]) for m in recorder.metrics if m["round"])
    assert all(is_unchanged(base) for base in (made.base, *made.bases.values()))


@pytest.mark.parametrize("mode", ["local-only", *slow("centralized", "federated")])
def test_without_a_split(mode, make_federation, train_quietly):
    made = make_federation(model={"quantization": "nf4-double"}, clients={"a": {"quantization": "int8"}}, mode=mode)
    held = {client.base.quantization for client in made.clients.values()}
    assert held == ({"nf4-double"} if mode == "centralized" else {"int8", "nf4-double"})
    recorder = train_quietly(made)
    assert all(math.isfinite(m["train_loss"]) for m in recorder.metrics if m["round"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_what_parties_hold_and_get_is_predicted_to_the_byte(family, make_federation, make_config):
    clients = {"a": {**NF4, "dtype": "bfloat16"}, "b": {"quantization": "none"}}
    quantized = {"model": {"quantization": "nf4-double"}, "clients": clients}
    plan, shape, classes = make_plan(make_config(family, **quantized)), Shape(4, 16, True), ["neg", "pos"]
    said = predict(plan, {"g": classes}, dict.fromkeys("abc", shape))
    for name in "abc":
        found = take_steps(plan, name, shape, classes)
        for part in ("frozen_weights", "saved_activations", "cut_buffers"):
            assert found.parts[part] == getattr(said.clients[name], part), (name, part)
        assert said.clients[name].peak == pytest.approx(found.peak, rel=0.05)
    made = make_federation(family, **quantized)
    held = {name: client.measure().frozen_weights for name, client in made.clients.items()}
    assert held == {name: memory.frozen_weights for name, memory in said.clients.items()}
    assert made.server.measure().frozen_weights == said.server.frozen_weights
    sent = {c: e.payload_bytes for (c, kind, _), e in set_up(made).entries.items() if kind == "base-weights"}
    assert sent["a"] < sent["c"] < sent["b"]
    for name, party in made.clients.items():
        layers = [m for m in party.half.modules() if isinstance(m, Quantized)]
        assert bool(layers) == (name != "b")
        by_hand = sum(quantized_bytes(*m.shape, party.base.quantization) for m in layers)
        assert by_hand == sum(t.nbytes for m in layers for t in m.buffers())
        saved = set(party.half.state_dict())
        rest = [t for n, t in (*party.half.named_parameters(), *party.half.named_buffers()) if n in saved]
        plain = sum(t.nbytes for t in rest) - by_hand
        assert by_hand + plain <= sent[name] <= by_hand + plain + 256 * len(saved)  # and the names of tensors


def test_quantised_weights_are_not_compiled(make_config):
    with pytest.raises(ConfigError, match=r"engine.compile: quantised weights are not compiled"):
        make_plan(make_config("gpt2", **ONE, engine={"compile": True}))
