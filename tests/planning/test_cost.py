"""FLOPs are those that torch counts in the real modules, bytes those of the real messages."""

from itertools import combinations, cycle, product

import pytest
import torch
from support.slow import slow_but
from support.tiny_models import ALWAYS, CONFIGS, varied

from atlas_cli import SplitClient, SplitServer
from atlas_cli.config.schema.experiment import LoraConfig, ModelConfig, TrainingConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.files.architectures import built_in
from atlas_cli.models.frozen.load import load_base
from atlas_cli.models.halves.split import run_half, server_half
from atlas_cli.planning.devices.cost import (
    block_shapes,
    client_step,
    compute_seconds,
    download_seconds,
    head_step,
    server_step,
    upload_seconds,
)
from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.devices.step_bytes import step_bytes
from atlas_cli.tasks import build as build_task
from atlas_cli.testing.flops import counted
from atlas_cli.wire.messages import Activations

BATCH, TOKENS, CUT = 2, 16, 3


@pytest.fixture
def base_of(model_folder):
    return lambda family: load_base(ModelConfig.model_validate({"name": model_folder(family)}))


def placed(base, layers, targets="auto"):
    names = adapted_names(base.model, base.family, targets)
    return place_ranks(base.model, base.family, dict.fromkeys(layers, 2), range(base.n_layers), names)


def linear_layers(base):
    names = [name for stage in base.family.stages for name in stage]
    return [name for name in names if not name.startswith("mlp.gate.") and ".experts." not in name]


def check_client(base, layers, targets, checkpointing=False, trained=("A", "B")):
    """A step of a real client, padded, against the formula."""
    lora = LoraConfig.model_validate({"targets": targets})
    client = SplitClient("a", None, dict.fromkeys(layers, 2), CUT, base=base, lora=lora, checkpointing=checkpointing)
    client.train_only(trained)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    mask[0, -1] = 0
    said = client_step(
        block_shapes(base.family, base.config), CUT, client.ranks, BATCH, TOKENS,
        checkpointing=checkpointing, trained=trained,
    )  # fmt: skip
    activations, forward = counted(lambda: client.compute_activations({"input_ids": mask, "attention_mask": mask}))
    _, backward = counted(lambda: client.backward(torch.ones_like(activations)))
    assert (said.forward, said.backward) == (forward, backward), (targets, list(layers), checkpointing, trained)


@pytest.mark.parametrize("family", slow_but(CONFIGS, "gpt2"))
def test_client_flops_are_those_that_torch_counts(family, base_of):
    """Whatever is adapted: the lowest adapted block computes backward only what its adapters need."""
    base = base_of(family)
    for target in linear_layers(base):
        check_client(base, range(1, CUT), [target], checkpointing=True)
        check_client(base, [1], [target])
    check_client(base, range(CUT), "auto")
    check_client(base, range(CUT), "auto", trained=("B",))
    check_client(base, [0, 2], linear_layers(base)[-2:], trained=("B",))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(ALWAYS - {"mistral", "qwen2", "roberta"}))  # as llama and bert count
def test_client_flops_over_all_pairs_of_targets(family, base_of):
    """From the first block on and from a later one; sets of layers and settings take turns, so that each meets each."""
    base = base_of(family)
    first, later = cycle((range(CUT), [0], [0, 2])), cycle((range(1, CUT), [2]))
    settings = cycle(product((False, True), (("A", "B"), ("B",))))
    for number, targets in enumerate(combinations(linear_layers(base), 2)):
        if number % 4 == 0:
            next(settings)  # or a set of layers would always meet the same
        for layers in (next(first), next(later)):
            check_client(base, layers, list(targets), *next(settings))


@pytest.mark.parametrize("family", slow_but(CONFIGS, "gpt2", "llama", "bert"))
def test_server_flops_are_those_that_torch_counts(family, base_of):
    base = base_of(family)
    half = server_half(base.model, base.family, CUT)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    for targets, to_cut in product(("auto", linear_layers(base)[-1:]), (True, False)):
        received = torch.ones(BATCH, TOKENS, base.hidden_size, requires_grad=to_cut)
        ranks = placed(base, range(CUT, base.n_layers), targets)
        adapters = build_adapters(base.model, ranks, alpha=16)
        shapes = block_shapes(base.family, base.config)
        work = server_step(shapes, CUT, base.n_layers, ranks, BATCH, TOKENS, to_cut=to_cut)
        with adapters.attached(base.model):
            hidden, forward = counted(lambda received=received: run_half(half, mask, inputs_embeds=received))
            _, backward = counted(lambda hidden=hidden: hidden.sum().backward())
        assert (work.forward, work.backward) == (forward, backward)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("sequence-classification", "mean"), ("sequence-classification", "last"), ("token-classification", "mean"),
     ("question-answering", "mean"), ("causal-lm", "mean")],
)  # fmt: skip
def test_head_flops_are_those_that_torch_counts(name, pooling, base_of):
    base = base_of("gpt2")
    task = build_task(name, ["a", "b", "c"] if name.endswith("classification") else (), pooling)
    head = task.build_head(base.hidden_size, base.lm_head)
    hidden = torch.ones(BATCH, TOKENS, base.hidden_size, requires_grad=True)
    said = head_step(task, base.hidden_size, base.config.vocab_size, BATCH, TOKENS)
    logits, forward = counted(lambda: head(hidden, torch.ones(BATCH, TOKENS, dtype=torch.int64)))
    _, backward = counted(lambda: logits.sum().backward())
    assert (said.forward, said.backward) == (forward, backward)


def test_a_family_that_leaves_a_layer_out_has_no_flops(base_of):
    base = base_of("gpt2")
    family = varied(base.family, stages=base.family.stages[:-1])
    with pytest.raises(ConfigError, match=r"FLOPs of gpt2 are not known.*mlp\.c_proj"):
        block_shapes(family, base.config)


def test_published_formulas():
    gpt2, llama = (block_shapes(family_of(c.model_type), c) for c in map(built_in, ("gpt2", "llama-3-8b")))
    d, f, tokens = 768, 3072, 128
    assert gpt2.forward(tokens, {}) == 8 * d * d + 4 * d * f + 4 * tokens * d
    d, d_kv, f = 4096, 1024, 14336
    assert llama.forward(tokens, {}) == 4 * d * d + 4 * d * d_kv + 6 * d * f + 4 * tokens * d
    classes = build_task("sequence-classification", [str(c) for c in range(10)])
    # a head that is trained has two products backward, and reads a text once
    assert head_step(classes, d, 50, 8, tokens).total == 3 * 2 * d * 10 * 8


def test_without_adapters_there_is_no_backward():
    config = built_in("gpt2")
    shapes = block_shapes(family_of("gpt2"), config)
    work = client_step(shapes, 4, {}, 8, 128)
    assert work.backward == 0
    assert work.forward == 4 * 8 * 128 * shapes.forward(128, {})


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
    sizes = step_bytes(client.base.config, 4, 10, labels=labels_B if labels == "server" else None)
    assert (sizes.up, sizes.messages_up) == (sum(m.bytes for m in up), len(up))
    assert (sizes.down, sizes.messages_down) == (sum(m.bytes for m in down), len(down))


@pytest.mark.parametrize(("dtype", "element"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_are_the_closed_form_and_a_header(dtype, element):
    config = built_in("gpt2")
    sizes = step_bytes(config, 8, 128, dtype, labels=torch.zeros(8, 128, dtype=torch.int64))
    payload = Activations.closed_form(8, 128, 768 * element, 8 * 8 * 128)
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
