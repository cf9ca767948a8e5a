"""A base cast to another dtype is what loading the model in that dtype gives."""

import math

import pytest
import torch
from support.tiny_models import CAUSAL, FAMILIES
from torch.nn import functional

from atlas_cli import SplitClient
from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.frozen.cast import base_in_format, cast_error
from atlas_cli.models.frozen.load import current_sha256, load_base
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.models.halves.split import blocks_of, run_half

BF16, IN_BF16 = torch.bfloat16, WeightFormat("bfloat16")
BATCH = {
    "input_ids": torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7]),
}


@pytest.fixture
def load(model_folder):
    return lambda family, dtype: load_base(ModelConfig(name=model_folder(family), dtype=dtype))


def tensors(base):
    """Everything that is held, tied tensors by each of their names and buffers that no checkpoint has included."""
    found = {}
    for name, root in (("", base.model), ("lm_head.", base.lm_head)):
        if root is not None:
            found |= {name + n: t for n, t in root.named_parameters(remove_duplicate=False)}
            found |= {name + n: t for n, t in root.named_buffers(remove_duplicate=False)}
    return found


def step(base):
    """Activations of a client of three blocks, and the gradients of its adapters."""
    client = SplitClient("a", None, 3, 3, base=base)
    draw = torch.Generator().manual_seed(1)
    for adapter in client.adapters.adapters.values():
        torch.nn.init.normal_(adapter.lora_B, std=0.1, generator=draw)
    sent = client.compute_activations(BATCH)
    client.backward(torch.randn(sent.shape, generator=draw).to(sent.dtype))
    return [sent, *(p.grad for p in client.trained())]


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_bit_for_bit_to_the_model_loaded_in_that_dtype(family, load):
    base, loaded = load(family, "float32"), load(family, "bfloat16")
    cast = base_in_format(base, IN_BF16)
    ours, theirs = tensors(cast), tensors(loaded)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
        assert not ours[name].requires_grad
    assert {t.dtype for t in ours.values()} >= {BF16} and cast.dtype == BF16
    if family in CAUSAL:
        inputs, output = (cast.model.get_input_embeddings().weight, cast.lm_head.weight)
        assert (output is inputs) == (base.lm_head.weight is base.model.get_input_embeddings().weight)
    for a, b in zip(step(cast), step(loaded), strict=True):
        assert torch.equal(a, b)
    assert step(cast)[0].dtype == BF16 and step(base)[0].dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(
            *(run_half(b.model, BATCH["attention_mask"], input_ids=BATCH["input_ids"]) for b in (cast, loaded))
        )


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "distilbert"])
def test_only_what_a_cut_needs_is_cast(family, load):
    base = load(family, "float32")
    cast = base_in_format(base, IN_BF16, layers=2, output=False)
    for i, (ours, theirs) in enumerate(
        zip(blocks_of(cast.model, cast.family), blocks_of(base.model, base.family), strict=True)
    ):
        assert (ours is theirs) == (i >= 2)
    if base.family.final_norm is not None:
        assert cast.model.get_submodule(base.family.final_norm) is base.model.get_submodule(base.family.final_norm)
    if base.lm_head is not None:
        assert (cast.lm_head is base.lm_head) == (family == "llama")  # GPT-2's is the input embedding
    client, whole = (SplitClient("a", None, 2, 2, base=b) for b in (cast, base_in_format(base, IN_BF16)))
    assert torch.equal(client.compute_activations(BATCH), whole.compute_activations(BATCH))
    assert client.measure() == whole.measure()
    # adapters of one are not run in the other
    path = next(iter(client.adapters.adapters))
    with client.adapters.attached(cast.model):
        assert not base.model.get_submodule(path)._forward_hooks


def test_the_dtype_that_it_has_is_the_base_itself_and_the_hash_is_the_source(load):
    base = load("bert", "float32")
    assert base_in_format(base, WeightFormat("float32")) is base
    before = current_sha256(base)
    cast = base_in_format(base, IN_BF16)
    assert cast.sha256 == base.sha256 == before == current_sha256(base)
    assert (cast.name, cast.family, cast.fused_gelu) == (base.name, base.family, base.fused_gelu)
    wide = base_in_format(cast, WeightFormat("float32"))
    assert wide.dtype == torch.float32 and cast_error(cast, wide) == 0


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_copy_that_is_not_the_base_is_told_by_how_much(family, load):
    base = load(family, "float32")
    cast = base_in_format(base, IN_BF16, layers=3)
    assert cast_error(base, cast) == cast_error(base, base) == 0
    weight = next(p for p in blocks_of(cast.model, cast.family)[1].parameters() if p.dim() == 2)
    before = weight[3, 5].item()
    weight[3, 5] = before + 0.5
    assert cast_error(base, cast) == pytest.approx(0.5, abs=2**-8)
    weight[3, 5] = math.nan
    assert math.isnan(cast_error(base, cast))
    assert cast_error(base, base_in_format(base, IN_BF16)) == 0


def test_a_changed_base_is_added_in_float32_and_rounded_once():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(16, 12).to(BF16), torch.randn(4, 16).to(BF16)
    pieces = [(torch.randn(3, 16), torch.randn(12, 3)) for _ in range(2)]
    adapter = LoRAAdapter(16, 12, 2)
    torch.nn.init.normal_(adapter.lora_B)
    plain, wide = layer(x), x.float()
    changed = plain.float() + sum(functional.linear(functional.linear(wide, A), B) for A, B in pieces)
    for adapters, expected in (({}, changed), ({"": adapter}, changed + adapter(wide))):
        with AdapterSet(adapters, {"": pieces}).attached(layer):
            found = layer(x)
        assert found.dtype == BF16
        torch.testing.assert_close(found, expected.to(BF16), atol=0, rtol=2**-8)
        assert (found == expected.to(BF16)).float().mean() > 0.9  # all but ties that float32 sums decide
