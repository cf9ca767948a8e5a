"""The halves are real halves, adapters are really attached, and neither leaves a trace on the shared base."""

from functools import cache

import pytest
import torch
from support.slow import slow
from support.tiny_models import CAUSAL_FAMILIES, CONFIGS, FAMILIES, tiny_model, varied

from atlas_cli import SplitClient, SplitServer, tasks
from atlas_cli.config.schema.experiment import OptimizerConfig, TrainingConfig
from atlas_cli.federation.parties.measured_memory import saved_bytes
from atlas_cli.models.adapters.lora import AdapterSet, build_adapters
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.families import family_of
from atlas_cli.models.families.contract import PassEmbeddings
from atlas_cli.models.frozen.load import as_base, current_sha256
from atlas_cli.models.halves.split import blocks_of, client_half, client_part, run_half, server_half

TIED = {"gpt2", "opt", "gemma3_text", "gemma2", "falcon", "smollm3"}
N_LAYERS = 4
CUTS = range(1, N_LAYERS + 1)
IDS = torch.tensor([[7, 9, 11, 13, 8, 6], [20, 21, 22, 0, 0, 0]])
MASK = (IDS != 0).long()
BATCH = {"input_ids": IDS, "attention_mask": MASK}
LABELS = torch.tensor([0, 2])
# what all blocks of an encoder read, and so each half
OF_BOTH = {"mpnet": ["relative_attention_bias"], "deberta-v2": ["rel_embeddings", "LayerNorm"]}


@cache
def base_of(family):
    return as_base(tiny_model(family), family_of(CONFIGS[family]().model_type), family, "random")


def identities(module):
    return {id(p) for p in module.parameters()}


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def client_of(base, name="c", rank=2, seed=0, noise=0, **training):
    client = SplitClient(
        name, rank_config=rank, split_layer=2, base=base, seed=seed, training=TrainingConfig(**training)
    )
    if noise:
        fill(client.adapters, noise)
    return client


def server_of(base, task_name="sequence-classification", rank=2, **training):
    task = tasks.build(task_name, ["a", "b", "c"])
    server = SplitServer(base=base, tasks={"g": task}, split_layer=2, rank=rank, training=TrainingConfig(**training))
    fill(server.groups["g"].adapters, 5)
    return server


def fill(adapters, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapters.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_half_holds_its_own_parameters_and_no_others(family, cut):
    base = base_of(family)
    blocks = blocks_of(base.model, base.family)
    lower = set().union(*(identities(b) for b in blocks[:cut]))
    upper = set().union(set(), *(identities(b) for b in blocks[cut:]))
    around = identities(base.model) - lower - upper
    norm = identities(base.model.get_submodule(base.family.final_norm)) if base.family.final_norm else set()
    both = set().union(*(identities(base.model.encoder.get_submodule(name)) for name in OF_BOTH.get(family, ())))
    embeddings = around - norm - both
    assert embeddings
    assert lower and (upper or cut == N_LAYERS)
    assert identities(client_half(base.model, base.family, cut)) == embeddings | both | lower
    assert identities(server_half(base.model, base.family, cut)) == norm | both | upper


@pytest.mark.parametrize("family", FAMILIES)
def test_cutting_leaves_the_base_as_it_was(family):
    base = base_of(family)
    modules = [(name, id(m)) for name, m in base.model.named_modules()]
    ids = run_half(base.model, MASK, input_ids=IDS)
    for cut in CUTS:
        client_half(base.model, base.family, cut)
        server_half(base.model, base.family, cut)
    assert [(name, id(m)) for name, m in base.model.named_modules()] == modules
    assert base.model.config.num_hidden_layers == N_LAYERS
    assert torch.equal(run_half(base.model, MASK, input_ids=IDS), ids)


@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
def test_the_server_sees_the_embedding_only_as_the_language_model_head(family):
    base = base_of(family)
    embedding = base.model.get_input_embeddings().weight
    server = server_of(base, "causal-lm")
    assert id(embedding) not in identities(server.half)
    tied = base.config.tie_word_embeddings
    assert (base.lm_head.weight is embedding) == tied == (family in TIED)
    assert list(server.heads["g"].parameters()) == []
    assert server.groups["g"].parameters() == list(server.groups["g"].adapters.parameters())


# electra's embeddings take no vectors of the width that activations have
@pytest.mark.parametrize("family", [each for each in FAMILIES if each != slow("electra")[0]])
def test_positions_are_applied_once(family):
    """A server half whose input side is left in place gives something else where that does more than look tokens up."""
    base = base_of(family)
    activations = run_half(client_half(base.model, base.family, 2), MASK, input_ids=IDS)
    right = run_half(server_half(base.model, base.family, 2), MASK, inputs_embeds=activations)
    naive_family = varied(base.family, input_side={})
    naive = run_half(server_half(base.model, naive_family, 2), MASK, inputs_embeds=activations)
    whole = run_half(base.model, MASK, inputs_embeds=activations)
    assert torch.equal(right, run_half(base.model, MASK, input_ids=IDS))
    assert (right - whole).abs().max() > 1e-3
    looks_up = hasattr(base.model, "rotary_emb") and PassEmbeddings not in base.family.input_side.values()
    assert torch.equal(right, naive) == looks_up
    if not looks_up:
        assert (right - naive).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_norm_is_applied_once_by_the_server(family):
    base = base_of(family)
    activations = run_half(client_half(base.model, base.family, N_LAYERS), MASK, input_ids=IDS)
    whole = run_half(base.model, MASK, input_ids=IDS)
    if base.family.final_norm is None:
        assert torch.equal(activations, whole)
    else:
        assert not torch.equal(activations, whole)
        assert torch.equal(base.model.get_submodule(base.family.final_norm)(activations), whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_change_the_output_and_detaching_restores_every_bit(family):
    base = base_of(family)
    client = client_of(base)
    plain = run_half(client.half, MASK, input_ids=IDS)
    assert torch.equal(client.compute_activations(BATCH), plain), "B = 0 must not change anything"
    for path, adapter in client.adapters.adapters.items():
        with torch.no_grad():
            adapter.lora_B.fill_(0.1)
        changed = client.compute_activations(BATCH)
        assert not torch.equal(changed, plain), f"the adapter of {path} is not attached"
        with torch.no_grad():
            adapter.lora_B.zero_()
    fill(client.adapters, 3)
    assert (client.compute_activations(BATCH) - plain).abs().max() > 1e-3
    assert hooks_on(base.model) == 0
    assert torch.equal(run_half(client.half, MASK, input_ids=IDS), plain)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_hooks_are_removed_after_an_exception(family, monkeypatch):
    base = base_of(family)
    client, server = client_of(base, noise=1), server_of(base)
    server.begin_round({"c": "g"}, 0)
    message = client.forward(BATCH, 0, 0, LABELS)
    plain = run_half(base.model, MASK, input_ids=IDS)

    def fail(*_, **__):
        assert hooks_on(base.model) > 0
        raise RuntimeError("boom")

    blocks = blocks_of(base.model, base.family)
    with monkeypatch.context() as patch:
        patch.setattr(blocks[1], "forward", fail)
        patch.setattr(blocks[3], "forward", fail)
        with pytest.raises(RuntimeError, match="boom"):
            client.compute_activations(BATCH)
        assert hooks_on(base.model) == 0
        with pytest.raises(RuntimeError, match="boom"):
            server.answer(message)
        assert hooks_on(base.model) == 0
    with pytest.raises(AttributeError), AdapterSet({**client.adapters.adapters, "nowhere": None}).attached(base.model):
        raise AssertionError("not reached")
    assert hooks_on(base.model) == 0
    assert torch.equal(run_half(base.model, MASK, input_ids=IDS), plain)


def step_of(client, server, interleaved_with=None):
    message = client.forward(BATCH, 0, 0, LABELS)
    other = interleaved_with.forward(BATCH, 0, 0, LABELS) if interleaved_with else None
    reply, _ = server.answer(message)
    if interleaved_with:
        other_reply, _ = server.answer(other)
        interleaved_with.backward(other_reply.gradients)
    client.backward(reply.gradients)
    return message.activations, [p.grad.clone() for p in client.trained()]


@pytest.mark.parametrize("family", FAMILIES)
def test_clients_on_one_base_do_not_leak_into_each_other(family):
    base = base_of(family)
    server = server_of(base)
    server.begin_round({"a": "g", "b": "g"}, 0)
    alone, alone_gradients = step_of(client_of(base, "a", 2, noise=1), server)
    other, other_gradients = step_of(client_of(base, "b", {1: 3}, noise=2), server)
    assert (alone - other).abs().max() > 1e-3
    a, b = client_of(base, "a", 2, noise=1), client_of(base, "b", {1: 3}, noise=2)
    together, gradients = step_of(a, server, interleaved_with=b)
    assert torch.equal(together, alone)
    assert all(torch.equal(x, y) for x, y in zip(gradients, alone_gradients, strict=True))
    assert all(torch.equal(p.grad, y) for p, y in zip(b.trained(), other_gradients, strict=True))


@pytest.mark.parametrize(("family", "task_name"), [("gpt2", "causal-lm"), ("bert", "sequence-classification")])
def test_training_never_touches_the_base(family, task_name):
    base = base_of(family)
    optimizer = {"lr": 0.1, "weight_decay": 0.1}
    training = {"client_optimizer": OptimizerConfig(**optimizer), "server_optimizer": OptimizerConfig(**optimizer)}
    client, server = client_of(base, noise=1, **training), server_of(base, task_name, **training)
    before = [p.detach().clone() for p in [*client.trained(), *server.groups["g"].parameters()]]
    labels = IDS if task_name == "causal-lm" else LABELS
    server.begin_round({"c": "g"}, 0)
    for step in range(2):
        server.begin_step(step, 0.1)
        reply, _ = server.answer(client.forward(BATCH, 0, step, labels))
        client.apply_gradients(reply.gradients)
        server.finish_step()
    after = [*client.trained(), *server.groups["g"].parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert current_sha256(base) == base.sha256
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())


def test_the_hash_of_the_base_sees_a_changed_weight():
    base = as_base(tiny_model("llama"), family_of("llama"), "llama", "random")
    with torch.no_grad():
        base.lm_head.weight[0, 0] += 1e-3
    assert current_sha256(base) != base.sha256


def test_adapters_of_the_upper_blocks_do_not_touch_the_client_half():
    base = base_of("gpt2")
    upper = build_adapters(base.model, {"h.2.attn.c_attn": 2, "h.3.attn.c_attn": 2}, alpha=8)
    fill(upper, 1)
    half = client_half(base.model, base.family, 2)
    plain = run_half(half, MASK, input_ids=IDS)
    with upper.attached(base.model):
        assert torch.equal(run_half(half, MASK, input_ids=IDS), plain)
        assert not torch.equal(run_half(base.model, MASK, input_ids=IDS), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_upper_part_of_a_client_half_goes_on_where_the_lower_part_ends(family):
    base = base_of(family)
    for first, cut in ((1, 2), (1, 4), (3, 4)):
        lower, upper = client_half(base.model, base.family, first), client_part(base.model, base.family, first, cut)
        below = run_half(lower, MASK, input_ids=IDS)
        whole = run_half(client_half(base.model, base.family, cut), MASK, input_ids=IDS)
        assert torch.equal(run_half(upper, MASK, inputs_embeds=below), whole)
        assert len(blocks_of(upper, base.family)) == cut - first


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_graph_below_the_lowest_adapter(family, checkpointing):
    base, first = base_of(family), 2
    client = SplitClient("c", rank_config={2: 2, 3: 2}, split_layer=4, base=base, checkpointing=checkpointing)
    assert {layer_of(path, base.family) for path in client.adapters.adapters} == {2, 3}
    graphs, kept = [], []

    def look(block, args, output):
        graphs.append((output if isinstance(output, torch.Tensor) else output[0]).requires_grad)
        kept.append(saved.total)

    with saved_bytes([]) as saved:
        handles = [block.register_forward_hook(look) for block in blocks_of(base.model, base.family)]
        client.compute_activations(BATCH)
        for handle in handles:
            handle.remove()
    assert graphs == [False] * first + [True, True]
    assert kept[:first] == [0] * first
    assert kept[first] > 0
