"""Adapters go to stock PEFT and come back; stock PEFT on the stock model is the oracle."""

import json
import re
from functools import cache

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CAUSAL, CONFIGS, tiny_model
from transformers import GPT2Config, GPT2Model

from atlas_cli.errors import ResourceError
from atlas_cli.models.families import family_of
from atlas_cli.models.load import as_base
from atlas_cli.models.lora import AdapterSet, LoRAAdapter, build_adapters
from atlas_cli.models.peft_format import peft_files, read_peft
from atlas_cli.models.placement import adapted_names, place_ranks
from atlas_cli.models.split import run_half

# peft asks transformers by a name that is going away
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.tensor([[7, 9, 11, 13, 8, 6], [20, 21, 22, 0, 0, 0]])
MASK = (IDS != 0).long()
GAPS = {0: 2, 1: 5, 3: 1}
ALPHA = 6.0


@cache
def base_of(family):
    return as_base(tiny_model(family), family_of(CONFIGS[family]().model_type), family, "random")


def stock(family, causal_lm=False):
    """A model as the user of the exported adapter has it."""
    whole = tiny_model(family)
    return whole if causal_lm or family not in CAUSAL else whole.base_model


def randomise(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def adapters_for(base, ranks=GAPS, targets="auto", rslora=False):
    names = adapted_names(base.model, base.family, targets)
    placed = place_ranks(base.model, base.family, ranks, range(base.n_layers), names)
    adapters = build_adapters(base.model, placed, alpha=ALPHA, rslora=rslora)
    randomise(adapters.parameters(), 1)
    return adapters


def export(folder, base, adapters, *, causal_lm=False, rslora=False, head=None):
    files = peft_files(base, adapters, alpha=ALPHA, dropout=0.1, rslora=rslora, causal_lm=causal_lm, head=head or {})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def output_of(model, causal_lm):
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK)
    return found.logits if causal_lm else found.last_hidden_state


def atlas_output(base, adapters, causal_lm):
    with torch.no_grad(), adapters.attached(base.model):
        hidden = run_half(base.model, MASK, input_ids=IDS)
        return base.lm_head(hidden) if causal_lm else hidden


def assert_same(mine, theirs, plain):
    """Equal on real tokens, and far from the model without adapters."""
    real = MASK.bool()
    torch.testing.assert_close(mine[real], theirs[real], rtol=0, atol=1e-5)
    assert (mine[real] - plain[real]).abs().max() > 1e-2


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize(
    ("family", "causal_lm"),
    [*((f, False) for f in CONFIGS), *((f, True) for f in CAUSAL)],
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
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "SHA256SUMS"}
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
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "SHA256SUMS"}
    config = json.loads(files["adapter_config.json"])
    assert (config["task_type"], config["fan_in_fan_out"], config["bias"]) == ("CAUSAL_LM", True, "none")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, ALPHA, 0.1)
    assert config["rank_pattern"] == {"transformer.h.0.attn.c_attn": 2}
    assert config["target_modules"] == ["transformer.h.0.attn.c_attn", "transformer.h.2.attn.c_attn"]
    assert config["base_model_name_or_path"] == "gpt2"


def made_by_peft(folder, family, causal_lm=False, **changes):
    """A PEFT adapter with random B, saved by PEFT, and its output."""
    model = stock(family, causal_lm)
    targets = [name.rpartition(".")[2] for name in adapted_names(base_of(family).model, base_of(family).family, "auto")]
    options = {"r": 4, "lora_alpha": 10, "target_modules": targets, "fan_in_fan_out": family == "gpt2", **changes}
    model = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    randomise((p for name, p in model.named_parameters() if "lora_" in name), 2)
    model.save_pretrained(str(folder))
    return output_of(model, causal_lm)


@pytest.mark.parametrize(
    ("family", "causal_lm", "changes"),
    [
        ("gpt2", False, {}),
        ("gpt2", True, {"rank_pattern": {"h.1.attn.c_attn": 2}}),
        ("llama", True, {"use_rslora": True, "layers_to_transform": [0, 3]}),
        ("bert", False, {"rank_pattern": {"query": 3}, "alpha_pattern": {"value": 20}}),
        ("bert", False, {"alpha_pattern": {"encoder.layer.1.attention.self.query": 30, r"layer.\d.*": 5}}),
        ("distilbert", False, {}),
    ],
)
def test_adapters_made_by_peft_read_back(family, causal_lm, changes, tmp_path):
    theirs = made_by_peft(tmp_path, family, causal_lm, **changes)
    base = base_of(family)
    adapters = {}
    for path, (A, B, scale) in read_peft(tmp_path, base).items():
        adapter = LoRAAdapter(A.shape[1], B.shape[0], A.shape[0], alpha=scale * A.shape[0])
        with torch.no_grad():
            adapter.lora_A.copy_(A)
            adapter.lora_B.copy_(B)
        adapters[path] = adapter
    plain = output_of(stock(family, causal_lm), causal_lm)
    assert_same(atlas_output(base, AdapterSet(adapters), causal_lm), theirs, plain)


def rewrite_config(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite_tensors(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


FIRST = "base_model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "is not a PEFT adapter that can be read: "),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "is not a PEFT adapter that can be read: "),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is not a PEFT adapter that can be read: "),
        (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe{"), "is not a PEFT adapter that can be read: "),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"junk"), "is not a PEFT adapter that can be read: "),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "expected a LoRA adapter, found None"),
        (lambda f: rewrite_config(f, peft_type="IA3"), "expected a LoRA adapter, found 'IA3'"),
        (lambda f: rewrite_config(f, use_dora=True), "expected a plain LoRA adapter, found use_dora"),
        (lambda f: rewrite_config(f, lora_bias=True), "expected a plain LoRA adapter, found lora_bias"),
        (lambda f: rewrite_config(f, bias="all"), "expected a plain LoRA adapter, found trained biases"),
        (lambda f: rewrite_config(f, lora_alpha=None), "lora_alpha or alpha_pattern is damaged: "),
        (lambda f: rewrite_config(f, lora_alpha="x"), "lora_alpha or alpha_pattern is damaged: "),
        (lambda f: rewrite_config(f, alpha_pattern={"(": 3}), "lora_alpha or alpha_pattern is damaged: "),
        (lambda f: rewrite_config(f, alpha_pattern=["q"]), "lora_alpha or alpha_pattern is damaged: "),
        (
            lambda f: rewrite_tensors(f, lambda t: t.pop(f"{FIRST}.lora_B.weight")),
            "lora_A and lora_B of layers.0.self_attn.q_proj do not fit together, or not to llama",
        ),
        (
            lambda f: rewrite_tensors(f, lambda t: t.pop(f"{FIRST}.lora_A.weight")),
            "lora_A and lora_B of layers.0.self_attn.q_proj do not fit together, or not to llama",
        ),
        (
            lambda f: rewrite_tensors(f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.zeros(3, 32)})),
            "lora_A and lora_B of layers.0.self_attn.q_proj do not fit together, or not to llama",
        ),
        (
            lambda f: rewrite_tensors(f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.zeros(4, 33)})),
            "lora_A and lora_B of layers.0.self_attn.q_proj do not fit together, or not to llama",
        ),
        (
            lambda f: rewrite_tensors(f, lambda t: t.update({f"{FIRST}.lora_B.weight": torch.zeros(31, 4)})),
            "lora_A and lora_B of layers.0.self_attn.q_proj do not fit together, or not to llama",
        ),
        (
            lambda f: rewrite_tensors(f, lambda t: t.update({f"{FIRST}.lora_magnitude_vector": torch.zeros(3)})),
            f"expected a plain LoRA adapter, found {FIRST}.lora_magnitude_vector",
        ),
        (
            lambda f: rewrite_tensors(
                f, lambda t: t.update({"base_model.model.layers.9.x.lora_A.weight": torch.zeros(4, 3)})
            ),
            "layers.9.x is not a linear layer of llama",
        ),
        (
            lambda f: rewrite_tensors(
                f, lambda t: t.update({"base_model.model.norm.lora_A.weight": torch.zeros(4, 32)})
            ),
            "norm is not a linear layer of llama",
        ),
        (lambda f: rewrite_tensors(f, lambda t: t.clear()), "holds no LoRA tensors"),
    ],
)
def test_a_folder_that_cannot_be_used(damage, message, tmp_path):
    made_by_peft(tmp_path, "llama")
    read_peft(tmp_path, base_of("llama"))
    damage(tmp_path)
    with pytest.raises(ResourceError, match=re.escape(message)) as error:
        read_peft(tmp_path, base_of("llama"))
    assert str(tmp_path) in str(error.value)


def test_an_adapter_of_another_model(tmp_path):
    made_by_peft(tmp_path, "bert")
    with pytest.raises(
        ResourceError, match=r"encoder\.layer\.0\.attention\.self\.query is not a linear layer of llama"
    ):
        read_peft(tmp_path, base_of("llama"))


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ResourceError, match="nowhere is not a PEFT adapter that can be read"):
        read_peft(tmp_path / "nowhere", base_of("llama"))


def test_a_head_that_peft_saved_is_left_alone(tmp_path):
    made_by_peft(tmp_path, "llama")
    extra = {"base_model.model.score.weight": torch.zeros(2, 32)}
    rewrite_tensors(tmp_path, lambda t: t.update(extra))
    assert len(read_peft(tmp_path, base_of("llama"))) == 8
