"""FLOPs are those that torch counts in the real modules, bytes those of the real messages."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atlas_cli.config.schema import ModelConfig, TrainingConfig
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.protocol import activation_bytes
from atlas_cli.federation.server import SplitServer
from atlas_cli.models.architectures import built_in
from atlas_cli.models.checkpointing import checkpointed
from atlas_cli.models.families import family_of
from atlas_cli.models.load import load_base
from atlas_cli.models.lora import build_adapters, features_of
from atlas_cli.models.placement import adapted_names, place_ranks
from atlas_cli.models.split import client_half, run_half, server_half
from atlas_cli.planning.cost import (
    ATTENTION_BACKWARD,
    attention_flops,
    block_flops,
    client_step,
    compute_seconds,
    download_seconds,
    head_flops,
    server_step,
    step_bytes,
    upload_seconds,
)
from atlas_cli.planning.devices import Device

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "distilbert")
BATCH, TOKENS, CUT = 2, 16, 3


def in_place(_total, left, right, out_shape=None, **_):
    return 2 * left[0] * left[1] * right[1]  # torch counts addmm, and not addmm_


def counted(function):
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        result = function()
    by_operation = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    by_operation["aten.mm"] = by_operation.get("aten.mm", 0) + by_operation.pop("aten.addmm_", 0)
    return result, counter.get_total_flops(), by_operation


@pytest.fixture
def base_of(model_folder):
    """A base whose attention is written out in products that torch counts."""

    def load(family):
        base = load_base(ModelConfig.model_validate({"name": model_folder(family)}))
        base.model.set_attn_implementation("eager")
        return base

    return load


def placed(base, layers):
    names = adapted_names(base.model, base.family, "auto")
    ranks = place_ranks(base.model, base.family, dict.fromkeys(layers, 2), range(base.n_layers), names)
    return ranks, {path: features_of(base.model.get_submodule(path)) for path in ranks}


@pytest.mark.parametrize("layers", [range(CUT), range(1, CUT)], ids=["all layers", "not the lowest"])
@pytest.mark.parametrize("family", FAMILIES)
def test_client_flops_are_those_that_torch_counts(family, layers, base_of):
    base = base_of(family)
    ranks, features = placed(base, layers)
    adapters = build_adapters(base.model, ranks, alpha=16, dropout=0.0, rslora=False, seed=0, device="cpu")
    half = client_half(base.model, base.family, CUT)
    ids = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    work = client_step(base.family, base.config, CUT, ranks, features, BATCH, TOKENS)
    with adapters.attached(base.model):
        hidden, forward, _ = counted(lambda: run_half(half, torch.ones_like(ids), input_ids=ids))
        _, _, backward = counted(lambda: hidden.sum().backward())
    assert work.forward == forward
    attention = len(layers) * BATCH * TOKENS * attention_flops(base.config, TOKENS)
    # eager attention keeps what the fused one computes again, so its part (bmm) is smaller
    assert work.backward - ATTENTION_BACKWARD * attention == backward["aten.mm"]
    assert 1.5 * attention < backward["aten.bmm"] <= 2 * attention


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_checkpointing_adds_a_forward(family, base_of):
    base = base_of(family)
    ranks, features = placed(base, range(CUT))
    shape = (base.family, base.config, CUT, ranks, features, BATCH, TOKENS)
    plain, again = client_step(*shape), client_step(*shape, checkpointing=True)
    assert again.forward == plain.forward
    assert again.backward - plain.backward == pytest.approx(plain.forward)
    adapters = build_adapters(base.model, ranks, alpha=16, dropout=0.0, rslora=False, seed=0, device="cpu")
    half = client_half(base.model, base.family, CUT)
    ids = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    with adapters.attached(base.model):
        with checkpointed(half, base.family, ranks):
            hidden = run_half(half, torch.ones_like(ids), input_ids=ids)
        _, backward, _ = counted(lambda: hidden.sum().backward())
    assert backward <= again.backward <= 1.25 * backward  # it stops before the last product of a block


@pytest.mark.parametrize("family", FAMILIES)
def test_server_flops_are_those_that_torch_counts(family, base_of):
    base = base_of(family)
    ranks, features = placed(base, range(CUT, base.n_layers))
    adapters = build_adapters(base.model, ranks, alpha=16, dropout=0.0, rslora=False, seed=0, device="cpu")
    half = server_half(base.model, base.family, CUT)
    received = torch.ones(BATCH, TOKENS, base.hidden_size, requires_grad=True)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    work = server_step(base.family, base.config, CUT, base.n_layers, ranks, features, BATCH, TOKENS)
    with adapters.attached(base.model):
        hidden, forward, _ = counted(lambda: run_half(half, mask, inputs_embeds=received))
        _, _, backward = counted(lambda: hidden.sum().backward())
    assert work.forward == forward
    attention = (base.n_layers - CUT) * BATCH * TOKENS * attention_flops(base.config, TOKENS)
    assert work.backward - ATTENTION_BACKWARD * attention == backward["aten.mm"]


def test_published_formulas():
    gpt2, llama = built_in("gpt2"), built_in("llama-3-8b")
    d, f, tokens = 768, 3072, 128
    assert block_flops(gpt2, tokens) == 8 * d * d + 4 * d * f + 4 * tokens * d
    d, d_kv, f = 4096, 1024, 14336
    assert block_flops(llama, tokens) == 4 * d * d + 4 * d * d_kv + 6 * d * f + 4 * tokens * d
    assert head_flops(d * 10, 8).total == 2 * 2 * d * 10 * 8


def test_without_adapters_there_is_no_backward():
    config = built_in("gpt2")
    work = client_step(family_of("gpt2"), config, 4, {}, {}, 8, 128)
    assert work.backward == 0
    assert work.forward == 4 * 8 * 128 * block_flops(config, 128)


@pytest.mark.parametrize("labels", ["server", "client"])
def test_bytes_are_those_of_the_messages(labels, model_folder):
    training = TrainingConfig.model_validate({"labels": labels})
    client = SplitClient("a", model_folder("bert"), 2, 2, training=training)
    server = SplitServer(model_folder("bert"), 1, 2, num_classes=3, training=training)
    ids = torch.ones(4, 10, dtype=torch.int64)
    labels_B = torch.zeros(4, dtype=torch.int64)
    server.begin_round({"a": "0"}, 1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    up = [client.forward(batch, 1, 0, labels_B if labels == "server" else None)]
    if labels == "server":
        down = [server.answer(up[0])[0]]
    else:
        client.task, client.head = server.tasks["0"], server.heads["0"]
        down = [server.features(up[0])]
        up.append(client.answer_features(down[0], labels_B)[0])
        down.append(server.answer_gradients(up[1]))
    sizes = step_bytes(client.base.config, 4, 10, labels=labels)
    assert (sizes.up, sizes.messages_up) == (sum(m.bytes for m in up), len(up))
    assert (sizes.down, sizes.messages_down) == (sum(m.bytes for m in down), len(down))


@pytest.mark.parametrize(("dtype", "element"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_are_the_closed_form_and_a_header(dtype, element):
    config = built_in("gpt2")
    sizes = step_bytes(config, 8, 128, dtype, label_numbers=128)
    payload = activation_bytes(8, 128, 768, element, 8 * 128)
    assert payload < sizes.up < payload + 400
    assert 8 * 128 * 768 * element < sizes.down < 8 * 128 * 768 * element + 200


def test_seconds_by_hand():
    phone = Device("phone", compute=10e9, uplink=8e6, downlink=16e6, latency=0.05)
    assert compute_seconds(5e9, phone) == 0.5
    assert upload_seconds(1e6, 2, phone) == pytest.approx(1 + 2 * 0.05)
    assert download_seconds(1e6, 1, phone) == pytest.approx(0.5 + 0.05)
    # the slower end decides, latencies add up
    server = Device("server", compute=1e12, uplink=4e6, downlink=1e9, latency=0.01)
    assert upload_seconds(1e6, 1, phone, server) == pytest.approx(1 + 0.06)
    assert download_seconds(1e6, 1, phone, server) == pytest.approx(2 + 0.06)


def test_what_a_device_does_not_say_is_named():
    bare = Device("bare", memory=1)
    with pytest.raises(ValueError, match="device bare has no compute"):
        compute_seconds(1, bare)
    with pytest.raises(ValueError, match="device bare has no uplink"):
        upload_seconds(1, 1, bare)
