"""Folders that PEFT wrote: atlas starts from what stock PEFT computes with them, or refuses them by name."""

import json
import re
from dataclasses import fields

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.peft_folders import assert_same, atlas_output, base_of, made_by_peft, output_of, randomise, reloaded, stock

from atlas_cli.errors import ResourceError
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.adapters.peft_options import _FOLLOWED, _OFF, _WITHOUT_EFFECT
from atlas_cli.models.adapters.peft_reading import read_peft

pytestmark = [  # peft asks transformers by a name that is going away, and speaks of unusual options
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def adapters_in(folder, base):
    adapters = {}
    for path, (A, B, scale) in read_peft(folder, base).items():
        adapters[path] = LoRAAdapter(A.shape[1], B.shape[0], A.shape[0], alpha=scale * A.shape[0])
        with torch.no_grad():
            adapters[path].lora_A.copy_(A)
            adapters[path].lora_B.copy_(B)
    return AdapterSet(adapters)


def assert_read_as_peft_does(folder, family, causal_lm):
    base = base_of(family)
    plain = output_of(stock(family, causal_lm), causal_lm)
    assert_same(atlas_output(base, adapters_in(folder, base), causal_lm), reloaded(folder, family, causal_lm), plain)


@pytest.mark.parametrize(
    ("family", "causal_lm", "changes"),
    [
        ("gpt2", False, {}),
        ("gpt2", True, {"rank_pattern": {"h.1.attn.c_attn": 2}}),
        ("gpt2", True, {"target_modules": "all-linear", "fan_in_fan_out": False, "init_lora_weights": "gaussian"}),
        ("gpt2", True, {"layers_to_transform": [1], "layers_pattern": ["h"], "init_lora_weights": "mica"}),
        ("llama", True, {"use_rslora": True, "layers_to_transform": [0, 3], "init_lora_weights": "orthogonal"}),
        ("llama", False, {"layers_to_transform": 2, "layers_pattern": "layers", "init_lora_weights": "eva"}),
        ("llama", True, {"target_modules": r".*\.[12]\..*(q_proj|down_proj)", "exclude_modules": r".*2\.self_attn.*"}),
        ("llama", False, {"exclude_modules": ["layers.0.self_attn.q_proj"], "ensure_weight_tying": True}),
        ("bert", False, {"rank_pattern": {"query": 3}, "alpha_pattern": {"value": 20}}),
        ("bert", False, {"alpha_pattern": {"encoder.layer.1.attention.self.query": 30, r"layer.\d.*": 5}}),
        ("distilbert", False, {"lora_alpha": 0.5, "lora_dropout": 0.3}),
    ],
)
def test_adapters_made_by_peft_read_back(family, causal_lm, changes, tmp_path):
    made_by_peft(tmp_path, family, causal_lm, **changes)
    assert_read_as_peft_does(tmp_path, family, causal_lm)


def test_embeddings_that_were_saved_are_compared_with_the_base(tmp_path):
    made_by_peft(tmp_path, "gpt2", True, save_embedding_layers=True)
    assert_read_as_peft_does(tmp_path, "gpt2", True)
    name = "base_model.model.transformer.wte.weight"
    rewrite_tensors(tmp_path, lambda t: t[name][3].add_(1e-3))
    with pytest.raises(ResourceError, match=re.escape(f"{name} is trained besides the adapters")):
        read_peft(tmp_path, base_of("gpt2"))


def test_an_adapter_that_changed_the_base_is_refused_until_it_is_converted(tmp_path):
    model = peft.get_peft_model(
        stock("llama", True), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa")
    )
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = "pissa"
    randomise((p for name, p in model.named_parameters() if "lora_" in name), 2)
    model.save_pretrained(tmp_path / "pissa")
    with pytest.raises(ResourceError, match=r'adapter_config.json: init_lora_weights: "pissa" changes the weights'):
        read_peft(tmp_path / "pissa", base_of("llama"))
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    assert_read_as_peft_does(tmp_path / "plain", "llama", True)


def test_every_option_of_peft_has_its_place():
    named = [*_FOLLOWED, *_WITHOUT_EFFECT, *_OFF, "peft_type", "init_lora_weights"]
    assert len(named) == len(set(named))
    assert set(named) - {"enable_lora", "merge_weights"} == {f.name for f in fields(peft.LoraConfig)}
    for name, off in _OFF.items():
        if name in vars(peft.LoraConfig()):
            assert getattr(peft.LoraConfig(), name) in off


OPTIONS = [
    *((name, True) for name in _OFF),
    ("use_dora", 0),
    ("bias", "lora_only"),
    ("modules_to_save", ["score"]),
    ("layer_replication", [[0, 1]]),
    *(("init_lora_weights", name) for name in ("olora", "corda", "loftq", "lora_ga", "pissa_niter_4", "new", None, 1)),
    ("use_rslora", "no"),
    ("use_rslora", 1),
    ("fan_in_fan_out", "false"),
    ("r", 4.0),
    ("r", True),
    ("r", 0),
    ("lora_alpha", None),
    ("lora_alpha", "x"),
    ("lora_alpha", True),
    ("lora_alpha", 10**399),
    ("lora_alpha", float("nan")),
    ("lora_dropout", "0.1"),
    ("rank_pattern", None),
    ("rank_pattern", {"q_proj": "4"}),
    ("alpha_pattern", ["q"]),
    ("alpha_pattern", {"q_proj": 10**399}),
    ("layers_to_transform", [True]),
    ("layers_pattern", [3]),
    ("target_modules", {"q_proj": 1}),
    ("exclude_modules", 3),
    ("use_something_new", None),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS, ids=lambda value: str(value)[:30])
def test_an_option_that_is_not_followed_is_named(name, value, tmp_path):
    made_by_peft(tmp_path, "llama")
    rewrite_config(tmp_path, **{name: value})
    with pytest.raises(ResourceError, match=re.escape(f"{tmp_path / 'adapter_config.json'}: {name}")) as error:
        read_peft(tmp_path, base_of("llama"))
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def rewrite_config(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def rewrite_tensors(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


FIRST = "base_model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json; expected a folder that PEFT"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "is not a PEFT adapter that can be read: "),
        (
            lambda f: (f / "adapter_config.json").write_text("{", encoding="utf-8"),
            "is not a PEFT adapter that can be read: ",
        ),
        (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe{"), "is not a PEFT adapter that can be read: "),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"junk"), "is not a PEFT adapter that can be read: "),
        (
            lambda f: (f / "adapter_config.json").write_text("[]", encoding="utf-8"),
            "expected a LoRA adapter, found None",
        ),
        (lambda f: rewrite_config(f, peft_type="IA3"), "expected a LoRA adapter, found 'IA3'"),
        (lambda f: rewrite_config(f, alpha_pattern={"(": 3}), "'(' is not a regular expression: "),
        (lambda f: rewrite_config(f, rank_pattern={"(?i)q": 3}), "'(?i)q' is not a regular expression: "),
        (lambda f: rewrite_config(f, exclude_modules="([a-z]+)+x"), "may take for ever to compare"),
        (
            lambda f: rewrite_config(f, target_modules=None),
            "target_modules: expected a list of names, or text, got null",
        ),
        (lambda f: rewrite_config(f, target_modules="x", layers_pattern="h"), "needs target_modules as a list"),
        (lambda f: rewrite_config(f, layers_pattern=["h"]), "layers_pattern needs layers_to_transform"),
        (lambda f: rewrite_config(f, r=8), "layers.0.self_attn.q_proj has rank 4, and adapter_config.json says 8"),
        (lambda f: rewrite_config(f, target_modules=["q_proj"]), "layers.0.self_attn.v_proj, which the target_modules"),
        (lambda f: rewrite_config(f, layers_to_transform=[1]), "which the target_modules and layers of"),
        (
            lambda f: rewrite_config(f, target_modules=["q_proj", "v_proj", "down_proj"]),
            "has no factors of layers.0.mlp.down_proj, which target_modules of adapter_config.json names",
        ),
        (
            lambda f: rewrite_tensors(f, lambda t: t[f"{FIRST}.lora_B.weight"][2:3, 1].fill_(float("nan"))),
            f"{FIRST}.lora_B.weight holds values that are not finite",
        ),
        (
            lambda f: rewrite_tensors(
                f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.full((4, 32), -torch.inf)})
            ),
            f"{FIRST}.lora_A.weight holds values that are not finite",
        ),
        (
            lambda f: rewrite_tensors(
                f, lambda t: t.update({n.removeprefix("base_model."): t.pop(n) for n in list(t)})
            ),
            "does not begin with base_model.model., and PEFT would not load it",
        ),
        (
            lambda f: rewrite_tensors(
                f, lambda t: t.update({n.replace("l.l", "l.model.l"): t.pop(n) for n in list(t)[:2]})
            ),
            "is of another model class than the first tensors are",
        ),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            "holds adapter_model.bin, a pickle, which atlas never reads; save it again with safe_serialization=True",
        ),
        (lambda f: (f / "adapter_config.json").rename(f / "config.json"), "is a whole model and not an adapter"),
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
            f"{FIRST}.lora_magnitude_vector is trained besides the adapters and would be left out",
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
    with pytest.raises(ResourceError, match="nowhere does not exist; expected a folder that"):
        read_peft(tmp_path / "nowhere", base_of("llama"))


def test_a_head_that_peft_saved_is_not_dropped(tmp_path):
    made_by_peft(tmp_path, "llama")
    rewrite_tensors(tmp_path, lambda t: t.update({"base_model.model.score.weight": torch.zeros(2, 32)}))
    with pytest.raises(ResourceError, match=r"base_model\.model\.score\.weight is trained besides the adapters"):
        read_peft(tmp_path, base_of("llama"))
