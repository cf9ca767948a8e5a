"""What an unsplit model would need, traced without storage, is what a real forward of it saves."""

from __future__ import annotations

import pytest
import torch

from atlas_cli.experiment.memory_record import reference_memory
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.parties.measured_memory import Usage, saved_bytes, tensor_bytes
from atlas_cli.federation.parties.numerics import precision
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.halves.split import run_half

BATCH = Usage(saved_activations=1, batch_size=3, batch_tokens=33)


def really(federation, adapters):
    """What autograd saves in a real forward of the whole model."""
    base = federation.base.model
    ids = torch.ones(3, 11, dtype=torch.int64)
    weights = [*base.parameters(), *base.buffers(), *adapters.parameters()]
    autocast = precision(federation.device, federation.config.training.autocast)
    with autocast, adapters.attached(base), saved_bytes(weights) as saved:
        run_half(base, torch.ones_like(ids), input_ids=ids)
    return saved.total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("bert", {"lora": {"dropout": 0.1}}),
        ("bert", {"training": {"autocast": "bfloat16"}}),
        ("gpt2", {"model": {"dtype": "bfloat16"}}),
        ("gpt2", {"model": {"fused_gelu": True}, "lora": {"targets": ["c_attn", "c_fc"]}}),
        ("llama", {}),
        ("distilbert", {}),
    ],
    ids=str,
)
def test_the_trace_is_a_real_forward_to_the_byte(make_federation, family, changes):
    federation = make_federation(family, clients={"b": {"rank": 4}, "c": {"rank": 4}}, server={"rank": 4}, **changes)
    found = reference_memory(federation, [BATCH])
    model = federation.models_of_group("g")["g"]
    model.adapters.train()
    lora, full = found["unsplit_lora"], found["full_fine_tuning"]
    trained = tensor_bytes([*model.adapters.parameters(), *model.head.parameters()])
    assert (lora["gradients"], lora["optimizer"]) == (trained, 2 * trained)
    assert lora["adapters"] == tensor_bytes(model.adapters.parameters())
    assert lora["saved_activations"] == really(federation, model.adapters)
    all_trained = tensor_bytes([*federation.base.model.parameters(), *model.head.parameters()])
    assert (full["gradients"], full["optimizer"]) == (all_trained, 2 * all_trained)
    assert full["weights"] == all_trained + tensor_bytes(federation.base.model.buffers())
    federation.base.model.requires_grad_(True)
    try:
        assert full["saved_activations"] == really(federation, AdapterSet({}))
    finally:
        federation.base.model.requires_grad_(False)


@pytest.mark.parametrize("method", ["zero-pad", "flora", "none", "ffa"])
def test_it_depends_on_no_more_than_the_config_and_the_batch(make_federation, method):
    """Not on what was evaluated or merged before, nor on whether the run was resumed."""
    federation = make_federation(lora={"dropout": 0.2}, aggregation={"method": method, "weights": "uniform"})
    before = reference_memory(federation, [BATCH])
    set_up(federation)
    for member in federation.aggregator.members.values():
        member.adapters.train(False)
    assert reference_memory(federation, [BATCH]) == before
    assert before["unsplit_lora"]["adapters"] == 4 * sum(
        4 * sum(federation.plan.features[path]) for path in federation.plan.by_name["a"].ranks
    ) + 4 * sum(2 * sum(federation.plan.features[path]) for path in federation.plan.upper_ranks)


def test_without_a_step_a_full_batch_is_taken_and_said(make_federation):
    found = reference_memory(make_federation(), [])
    assert "no client" in found["unsplit_lora"]["how"] and "4 x 32 tokens" in found["unsplit_lora"]["how"]
