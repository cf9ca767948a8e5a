"""Quantised layers: the bytes, values and gradients that their definition says."""

import subprocess
import sys

import pytest
import torch
from support.quantized import dense_by_hand
from support.tiny_models import tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ConfigError
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen import quantized as quantized_module
from atlas_cli.models.frozen.cast import base_in_format, cast_error, is_unchanged
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.frozen.quantized import Quantized, quantized, require_quantization, rounding
from atlas_cli.models.frozen.skeleton import contents_sha256, put_together, take_apart, weights_of
from atlas_cli.models.frozen.weight_format import QUANTIZATIONS, WeightFormat, quantized_bytes
from atlas_cli.models.halves.split import blocks_of

FORMATS = QUANTIZATIONS[1:]
# the widest gap of nf4's levels is 0.304 of a block's scale; whole numbers up to 127 are 1 apart
LARGEST = {"nf4": 0.153, "nf4-double": 0.153, "int8": 0.5 / 127 + 1e-6}
# an odd number of weights; rows that are no whole blocks; whole blocks; more than 256 of them
SHAPES = [(5, 13), (24, 100), (7, 64), (130, 128)]


def layer_of(d_out, d_in, conv=False):
    torch.manual_seed(0)
    layer = (Conv1D(d_out, d_in) if conv else nn.Linear(d_in, d_out)).requires_grad_(False)
    weight = layer.weight.t() if conv else layer.weight
    weight.normal_()
    weight[2] = 0
    return layer, weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("quantization", FORMATS)
def test_bytes_values_and_gradients(quantization, conv, dtype):
    for shape in SHAPES:
        layer, weight = layer_of(*shape, conv)
        made = quantized(layer, quantization, dtype)
        assert isinstance(made, type(layer)) and made.shape == shape and made.bias.dtype == dtype
        assert sum(t.nbytes for t in made.buffers()) == quantized_bytes(*shape, quantization)
        dense = dense_by_hand(made)
        torch.testing.assert_close(made.dense(torch.float32), dense, rtol=1e-6, atol=1e-7)
        assert not made.dense(dtype)[2].any()
        blocks = weight.reshape(-1).split(shape[1] if quantization == "int8" else 64)
        for ours, theirs in zip(dense.reshape(-1).split(len(blocks[0])), blocks, strict=True):
            of_scales = 0.1 if quantization == "nf4-double" else 0.0
            of_cast = 2**-7 if dtype == torch.bfloat16 else 0.0
            assert (ours - theirs).abs().max() <= (LARGEST[quantization] + of_cast) * theirs.abs().max() + of_scales
        assert rounding(made, layer) == pytest.approx(float((dense - weight).abs().max()), rel=1e-4)
        x = torch.randn(3, 2, shape[1], dtype=dtype, requires_grad=True)
        plain = nn.functional.linear(x, made.dense(dtype), made.bias)
        ours, saved = made(x), []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
            made(x)
        assert torch.equal(ours, plain) and saved == []
        y = torch.randn_like(plain)
        assert torch.equal(*(torch.autograd.grad(found, x, y)[0] for found in (ours, plain)))


@pytest.mark.parametrize("quantization", FORMATS)
def test_planned_tensors_are_those_of_the_model(quantization):
    model = tiny_model("gpt2")
    base = base_in_format(as_base(model, family_of("gpt2"), "g", "random"), WeightFormat("bfloat16", quantization))
    planned, _ = meta_model(model.config, base.family, torch.bfloat16, quantization)
    ours, theirs = planned.state_dict(), base.model.state_dict()
    assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}


def test_the_linear_layers_of_a_clients_blocks_alone_are_quantised():
    source = as_base(tiny_model("llama"), family_of("llama"), "l", "random")
    server = base_in_format(source, WeightFormat("float32", "int8"))
    client = base_in_format(source, WeightFormat("float32", "nf4"), layers=2, output=False, server=server)
    blocks = [blocks_of(base.model, base.family) for base in (source, server, client)]
    for i, (plain, eight, four) in enumerate(zip(*blocks, strict=True)):
        kinds = [{type(m).__name__ for m in block.modules()} for block in (plain, eight, four)]
        assert "Linear" in kinds[0] and "Linear" not in kinds[1] | kinds[2]
        assert (four is eight) == (i >= 2)
        assert four.input_layernorm.weight is plain.input_layernorm.weight
    for base in (server, client):
        assert base.model.embed_tokens.weight is source.model.embed_tokens.weight
        assert base.lm_head.weight is source.lm_head.weight and base.sha256 == source.sha256
        assert is_unchanged(base) and cast_error(server, base) == 0 and base.rounding > 0
    float_client = base_in_format(source, source.format, layers=2, server=server)
    assert blocks_of(float_client.model, source.family)[2] is blocks[1][2]
    assert blocks_of(float_client.model, source.family)[0].mlp.up_proj.weight is blocks[0][0].mlp.up_proj.weight
    next(m for m in blocks[2][0].modules() if isinstance(m, Quantized)).packed[0] ^= 1
    assert not is_unchanged(client) and cast_error(server, client) == float("inf") and is_unchanged(server)


def test_another_process_computes_with_the_same_bits():
    source = as_base(tiny_model("gpt2"), family_of("gpt2"), "g", "random")
    base = base_in_format(source, WeightFormat("float32", "nf4-double"))
    skeleton, tensors = take_apart(base, 2)
    rebuilt = put_together(skeleton, [t.clone() for t in tensors])
    assert rebuilt.format == base.format and contents_sha256(weights_of(rebuilt)) == contents_sha256(tensors)
    ids = torch.arange(5, 12)[None]
    ours, theirs = (b.client_half(2)(input_ids=ids).last_hidden_state for b in (base, rebuilt))
    assert torch.equal(ours, theirs)


def test_where_it_cannot_be(monkeypatch):
    with pytest.raises(ConfigError, match=r"model.quantization: nf4 weights .* cpu and cuda, and this run is on mps"):
        require_quantization("nf4", torch.device("mps"), "model.quantization")
    require_quantization("none", torch.device("mps"), "model.quantization")
    quantized_module._library.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(ConfigError, match=r"clients.a.quantization: int8 weights need bitsandbytes.*\[quantization\]"):
        require_quantization("int8", torch.device("cpu"), "clients.a.quantization")


@pytest.mark.slow
def test_the_library_is_imported_without_a_word_and_fetches_nothing(tmp_path):
    (tmp_path / "kernels.py").write_text("raise SystemExit('asked for a program of the hub')", encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch\n"
        "from atlas_cli.models.frozen.quantized import require_quantization\n"
        "require_quantization('nf4', torch.device('cpu'), 'k'); assert 'kernels' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
