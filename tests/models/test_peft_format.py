"""Adapters go to stock PEFT; stock PEFT on the stock model is the oracle."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from support.peft_folders import assert_same, atlas_output, base_of, origin_of, output_of, randomise, stock
from support.slow import slow_but
from support.tiny_models import ALWAYS, CAUSAL, CONFIGS
from transformers import GPT2Config, GPT2Model

from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.peft_format import peft_files
from atlas_cli.models.adapters.peft_reading import read_peft
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base

# peft asks transformers by a name that is going away
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
GAPS = {0: 2, 1: 5, 3: 1}
ALPHA = 6.0


def adapters_for(base, ranks=GAPS, targets="auto", rslora=False):
    names = adapted_names(base.model, base.family, targets)
    placed = place_ranks(base.model, base.family, ranks, range(base.n_layers), names)
    adapters = build_adapters(base.model, placed, alpha=ALPHA, rslora=rslora)
    randomise(adapters.parameters(), 1)
    return adapters


def export(folder, base, adapters, *, causal_lm=False, rslora=False, head=None):
    given = {"alpha": ALPHA, "dropout": 0.1, "rslora": rslora, "head": head or {}, "origin": origin_of(base)}
    files = peft_files(base, adapters, causal_lm=causal_lm, **given)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize(
    ("family", "causal_lm"),
    slow_but(
        [*((f, False) for f in CONFIGS), *((f, True) for f in CAUSAL)],
        *((f, lm) for f in ALWAYS for lm in (False, True) if not lm or f in CAUSAL),
    ),
)
def test_exported_adapters_load_in_stock_peft(family, causal_lm, rslora, tmp_path):
    base = base_of(family)
    adapters = adapters_for(base, rslora=rslora)
    export(tmp_path, base, adapters, causal_lm=causal_lm, rslora=rslora)
    model = stock(family, causal_lm)
    plain = output_of(model, causal_lm)
    theirs = output_of(peft.PeftModel.from_pretrained(model, str(tmp_path)).eval(), causal_lm)
    assert_same(atlas_output(base, adapters, causal_lm), theirs, plain)


@pytest.mark.parametrize(
    ("family", "targets", "ranks"),
    [
        ("gpt2", ["c_attn", "c_proj", "c_fc"], {1: 4, 2: 3}),
        ("llama", ["q_proj", "k_proj", "down_proj"], 3),
        ("bert", ["query", "dense"], {2: 7}),
    ],
)
def test_other_targets(family, targets, ranks, tmp_path):
    base = base_of(family)
    adapters = adapters_for(base, ranks, targets)
    export(tmp_path, base, adapters)
    model = stock(family)
    plain = output_of(model, False)
    loaded = peft.PeftModel.from_pretrained(model, str(tmp_path)).eval()
    injected = {name for name, m in loaded.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert injected == set(adapters.adapters)
    assert_same(atlas_output(base, adapters, False), output_of(loaded, False), plain)


def test_many_layers_with_numbers_that_end_alike(tmp_path):
    """PEFT shortens long lists of targets and reads rank patterns as expressions: h.1 is not h.11."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=53, n_embd=16, n_layer=24, n_head=2, n_positions=16)
    base = as_base(GPT2Model(config).eval(), family_of("gpt2"), "gpt2", "random")
    adapters = adapters_for(base, {layer: 1 + layer % 5 for layer in range(24) if layer != 13}, ["c_attn", "c_fc"])
    export(tmp_path, base, adapters)
    model = GPT2Model(config).eval()
    model.load_state_dict(base.model.state_dict())
    plain = output_of(model, False)
    loaded = peft.PeftModel.from_pretrained(model, str(tmp_path)).eval()
    assert_same(atlas_output(base, adapters, False), output_of(loaded, False), plain)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("family", "causal_lm"), [("gpt2", True), ("llama", False), ("bert", False)])
def test_what_is_exported_reads_back(family, causal_lm, rslora, tmp_path):
    base = base_of(family)
    adapters = adapters_for(base, rslora=rslora)
    head = {"classifier.weight": torch.randn(3, 32), "classifier.bias": torch.zeros(3)}
    files = export(tmp_path, base, adapters, causal_lm=causal_lm, rslora=rslora, head=head)
    assert set(files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "origin.json",
        "SHA256SUMS",
    }
    found = read_peft(tmp_path, base)
    assert list(found) == list(adapters.adapters)
    for path, (A, B, scale) in found.items():
        adapter = adapters.adapters[path]
        assert torch.equal(A, adapter.lora_A) and torch.equal(B, adapter.lora_B)
        assert scale == pytest.approx(adapter.scaling, rel=1e-12)
    stored = load_file(tmp_path / "head.safetensors")
    assert all(torch.equal(stored[name], t) for name, t in head.items()) and stored.keys() == head.keys()


def test_a_headless_export_has_no_file_for_it_and_says_what_it_is(tmp_path):
    base = base_of("gpt2")
    files = export(tmp_path, base, adapters_for(base, {0: 2, 2: 4}), causal_lm=True)
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "origin.json", "SHA256SUMS"}
    config = json.loads(files["adapter_config.json"])
    assert (config["task_type"], config["fan_in_fan_out"], config["bias"]) == ("CAUSAL_LM", True, "none")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, ALPHA, 0.1)
    assert config["rank_pattern"] == {"transformer.h.0.attn.c_attn": 2}
    assert config["target_modules"] == ["transformer.h.0.attn.c_attn", "transformer.h.2.attn.c_attn"]
    assert config["base_model_name_or_path"] == "gpt2"
