"""What is predicted of families, options, heads and servers is what real ones save and have alive."""

import pytest
import torch
from support.real_client import features, make_base, measure, parts
from support.tiny_models import CONFIGS

from atlas_cli import SplitServer
from atlas_cli.config.schema.experiment import TrainingConfig
from atlas_cli.models.families import family_of
from atlas_cli.models.files.architectures import built_in
from atlas_cli.planning.memory.predict import predict_client, predict_server
from atlas_cli.planning.memory.saved_trace import LiveBytes, trace
from atlas_cli.planning.memory.step import Step
from atlas_cli.tasks import build as build_task
from atlas_cli.wire.messages import Activations


def check(base, dtype="float32", cut=3, rank=3, padded=True, targets="auto", task=None, lora=None, **options):
    """Two steps of a real client, and the prediction of them."""
    training = {"autocast": "bfloat16" if options.get("autocast") else "off"}
    lora = {**(lora or {}), "targets": targets}
    used, ranks, peak = measure(base, cut, rank, 3, 11, padded, lora=lora, training=training, task=task)
    step = Step(3, 11, dtype=dtype, padded=padded, dropout=lora.get("dropout", 0.0), **options)
    said = predict_client(base.family, base.config, cut, ranks, features(base, targets), step, task=task)
    assert parts(said) == parts(used)
    assert peak <= said.peak <= 1.05 * peak
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_families(name):
    for dtype, padded in (("float32", False), ("bfloat16", True)):
        check(make_base(CONFIGS[name](), dtype), dtype, padded=padded)


@pytest.mark.slow
def test_options():
    base = make_base(CONFIGS["gpt2"]())
    check(base, lora={"dropout": 0.1})
    check(base, targets=["attn.c_proj", "mlp.c_fc"])
    check(make_base(CONFIGS["bert"]()), autocast=True)
    check(make_base(CONFIGS["llama"]()), targets=["q_proj"], rank={1: 2, 2: 5})


@pytest.mark.slow
def test_client_with_its_own_head():
    classes = build_task("sequence-classification", ["a", "b", "c"])
    said = check(make_base(CONFIGS["bert"]()), task=classes)
    assert said.heads == 4 * 3 * (32 + 1)
    base = make_base(CONFIGS["gpt2"]())
    assert check(base, task=build_task("causal-lm")).heads == 0  # tied to the input embedding, which the client has


def serve(base, cut, rank, task, batch, tokens, padded):
    """The server's usage in one step of one client, and the peak of its tensors."""
    server = SplitServer(base=base, tasks={"g": task}, split_layer=cut, rank=rank, training=TrainingConfig())
    usage = server.measure()
    server.begin_round({"a": "g"}, 1)
    server.begin_step(0, 1e-3)
    activations = torch.randn(batch, tokens, base.hidden_size).to(next(base.model.parameters()).dtype)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[0, -1] = not padded
    labels = torch.zeros((batch,) if task.has_classes else (batch, tokens), dtype=torch.int64)
    message = Activations("a", activations, mask, labels)
    group = server.groups["g"]
    owned = [*server.half.parameters(), *server.half.buffers(), *group.parameters()]
    owned += list(base.lm_head.parameters()) if base.lm_head is not None else []
    with LiveBytes(owned) as live:
        server.answer(message)
        server.finish_step()
    ranks = {path: adapter.rank for path, adapter in group.adapters.adapters.items()}
    return usage, ranks, usage.frozen_weights + usage.adapters + usage.heads + live.peak


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_server(name):
    for cut, rank, dtype in ((1, 3, "float32"), (1, 0, "bfloat16"), (3, 3, "float32")):
        base = make_base(CONFIGS[name](), dtype)
        task = build_task("causal-lm") if base.family.causal else build_task("sequence-classification", ["a", "b", "c"])
        used, ranks, peak = serve(base, cut, rank, task, 3, 11, True)
        said = predict_server(base.family, base.config, cut, ranks, features(base), Step(3, 11, dtype=dtype), [task])
        measured, predicted = parts(used), parts(said)
        assert predicted.pop("saved_activations") == pytest.approx(measured.pop("saved_activations"), rel=5e-3)
        assert predicted == measured
        assert peak <= said.peak <= 1.08 * peak


@pytest.mark.slow
def test_a_trace_of_a_large_model_needs_no_memory_for_it():
    config = built_in("llama-3-8b")
    family = family_of(config.model_type)
    ranks = {f"layers.{layer}.self_attn.q_proj": 8 for layer in range(2)}
    traced = trace(family, config, range(2), ranks, Step(8, 512, dtype="bfloat16"))
    n, d, f = 8 * 512, config.hidden_size, config.intermediate_size
    assert traced.saved > 2 * 2 * n * (3 * f + d)  # the tensors exist on paper only: this is more than a gigabyte
    assert traced.peak > traced.saved
