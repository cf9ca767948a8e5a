"""The contract of a family file: what it may say, what it must say, and what it refuses before anything runs."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.tiny_models import CONFIGS, word_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MixtralConfig, OPTConfig, Qwen3MoeConfig

from atlas_cli.cli import main
from atlas_cli.errors import ConfigError
from atlas_cli.models.families import family_of, gpt2
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen import load
from atlas_cli.plugins import check

GIVEN = {
    "model_types": ("toy",),
    "blocks": "h",
    "input_side": {"wte": nn.Identity},
    "targets": ("c_attn",),
    "stages": (("c_attn",),),
    "causal": True,
}


def toy(**attributes):
    kept = {name: value for name, value in {**GIVEN, **attributes}.items() if value is not ...}
    return type("Family", (BaseFamily,), {"__module__": __name__, **kept})


def test_defaults():
    check(toy(_width=3), BaseFamily)  # names with an underscore are its own
    family = toy()()
    assert (family.final_norm, family.unused, family.ends_in_norm) == (None, (), False)
    assert list(family.uncovered(None)) == [] and not family.parallel(None)
    assert family.positions(CONFIGS["gpt2"]()) == 64
    assert family_of("roberta").positions(CONFIGS["roberta"]()) == 65
    assert family_of("roberta") is family_of("bert") is not family_of("gpt2")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"final_nrom": "ln_f"}, "Family.final_nrom is nothing that BaseFamily has; did you mean final_norm?"),
        (
            {"uncoverd": lambda self, config: ()},
            "Family.uncoverd is nothing that BaseFamily has; did you mean uncovered?",
        ),
        ({"blocks": ...}, "Family does not say its blocks; atlas_cli.models.families.contract.BaseFamily explains it"),
        ({"targets": "c_attn"}, "Family.targets is 'c_attn': Input should be a valid tuple"),
        ({"input_side": {"wte": "x"}}, "Input should be callable"),
        ({"parallel": lambda self: True}, "Family.parallel takes (self), and is called with (self, config)"),
    ],
)
def test_what_does_not_fit_the_contract_is_an_error_when_it_is_loaded(attributes, message, monkeypatch):
    monkeypatch.setattr(gpt2, "Family", toy(**attributes))
    with pytest.raises(ConfigError) as error:
        family_of("gpt2")
    assert __file__ in str(error.value) and message in str(error.value)


def test_a_broken_family_of_another_package_stops_no_other(install):
    """It is asked for what no family here covers, and then named."""
    install("lab-family", {"lab_family": "import no_such_library\n"}, "[atlas.families]\naardvark = lab_family\n")
    assert family_of("roberta").causal is False
    with pytest.raises(ConfigError, match=r"^lab-family 1\.5 .*aardvark.*no_such_library"):
        family_of("t5")


def test_a_model_type_that_two_families_claim_is_refused_with_both_origins(install):
    text = "from atlas_cli.models.families import gpt2\n\nclass Family(gpt2.Family):\n    model_types = ('gpt2', 'x')\n"
    install("lab-family", {"lab_family": text}, "[atlas.families]\nother = lab_family\n")
    with pytest.raises(ConfigError, match=r"^model\.name: model_type 'gpt2' is claimed by .*/gpt2\.py and by lab-f"):
        family_of("gpt2")
    assert family_of("x").blocks == "h" and family_of("llama").causal


SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
OPT_350M = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}
UNCOVERED = {
    "projections": (OPTConfig(**SIZES, ffn_dim=48, **OPT_350M), "word_embed_proj_dim: 16 is not hidden_size 32: proj"),
    "post-norm": (
        OPTConfig(**SIZES, ffn_dim=48, do_layer_norm_before=False),
        "do_layer_norm_before: False puts norms after attention and feed-forward, which is not covered",
    ),
    "no final norm": (
        OPTConfig(**SIZES, ffn_dim=48, _remove_final_layer_norm=True),
        "_remove_final_layer_norm: True leaves the final norm out, which is not covered",
    ),
    "no share": (
        GPTNeoXConfig(**SIZES, intermediate_size=48, rotary_pct=None),
        "rope_parameters.partial_rotary_factor: None is not a share of a head, above 0 and at most 1",
    ),
    "share": (
        GPTNeoXConfig(**SIZES, intermediate_size=48, rotary_pct=1.5),
        "rope_parameters.partial_rotary_factor: 1.5 is not a share of a head, above 0 and at most 1",
    ),
    "blocks without experts": (
        Qwen3MoeConfig(**SIZES, mlp_only_layers=[0]),
        "mlp_only_layers: [0] names blocks without experts among the others, which is not covered",
    ),
    "too few experts": (
        MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=5),
        "num_experts_per_tok: 5 is more than the 4 experts that there are",
    ),
    "router loss": (
        MixtralConfig(**SIZES, num_key_value_heads=2, output_router_logits=True),
        "output_router_logits: True asks for the loss of routers, which are frozen here; set it to false",
    ),
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_what_a_family_does_not_cover_is_refused_before_weights_are_loaded(case, tmp_path, monkeypatch, capsys):
    """By all commands that read a model, and by name."""
    config, message = UNCOVERED[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "_from_source", lambda *_: pytest.fail("weights were loaded"))
    config.save_pretrained("model")
    word_tokenizer(causal=True).save_pretrained("model")
    Path("data.csv").write_text("text,label\n" + "".join(f"film {i},{'ab'[i % 2]}\n" for i in range(8)), "utf-8")
    experiment = {
        "name": "toy",
        "model": {"name": "model", "split_layer": 2},
        "task_groups": {"g": {"task": "sequence-classification", "data": {"files": "data.csv"}}},
        "clients": {"a": {"task_group": "g", "rank": 2}},
        "training": {"max_length": 16},
    }
    Path("x.yaml").write_text(yaml.safe_dump(experiment), "utf-8")
    for command in (["validate", "x.yaml"], ["train", "x.yaml"], ["split-point", "model"], ["data", "x.yaml"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"model/config.json: {message}" in said and said.count("\n") == 1, command


@pytest.mark.parametrize("changes", [{"word_embed_proj_dim": 16}, {"do_layer_norm_before": False}])
def test_changes_of_a_config_are_asked_about_too(changes, model_folder):
    with pytest.raises(ConfigError, match=r"model\.config: (word_embed_proj_dim|do_layer_norm_before): .* not covered"):
        load.load_base(
            load.ModelConfig.model_validate({"name": model_folder("opt"), "init": "random", "config": changes})
        )


def test_old_checkpoints_of_pythia(tmp_path, capsys):
    """Their config.json says ``rotary_pct`` and their files hold causal masks: both are known."""
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(GPTNeoXConfig(**SIZES, intermediate_size=48, rotary_pct=0.5))
    whole.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text("utf-8"))
    told.pop("rope_parameters")
    told |= {"rotary_pct": 0.5, "rotary_emb_base": 10000}
    (tmp_path / "config.json").write_text(json.dumps(told), "utf-8")
    weights = load_file(tmp_path / "model.safetensors")
    masks = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": whole.base_model.rotary_emb.inv_freq,
    }
    save_file(weights | masks, tmp_path / "model.safetensors", {"format": "pt"})
    base = load.load_base(load.ModelConfig.model_validate({"name": str(tmp_path)}))
    assert base.left_out == () and capsys.readouterr().err == ""
    assert base.config.rope_parameters["partial_rotary_factor"] == 0.5
    ids = torch.arange(5, 12)[None]
    assert torch.equal(base.model(ids).last_hidden_state, whole.base_model.eval()(ids).last_hidden_state)
    wrong = {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2)}
    save_file(weights | masks | wrong, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="inv_freq is not what transformers computes"):
        load.load_base(load.ModelConfig.model_validate({"name": str(tmp_path)}))
