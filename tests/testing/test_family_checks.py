"""The suite that plug-in authors run on a family: it passes on right ones, and finds each way to be wrong."""

import pytest
from support.slow import slow_but
from support.tiny_models import _FALCON, _LLAMA, _SIZE, ALWAYS, CONFIGS, VARIANTS, varied
from transformers import FalconConfig, GPTNeoXConfig, LlamaConfig, OPTConfig

from atlas_cli.errors import ConfigError
from atlas_cli.models.families import family_of
from atlas_cli.testing import families
from atlas_cli.testing.families import check_family

_OPT = {**_SIZE, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}
DETAILS = {
    "gpt_neox, one after the other": GPTNeoXConfig(
        **_OPT, intermediate_size=48, use_parallel_residual=False, rotary_pct=0.75, attention_bias=False
    ),
    "gpt_neox, tied": GPTNeoXConfig(**_OPT, intermediate_size=48, tie_word_embeddings=True, hidden_act="gelu_new"),
    "opt, without biases": OPTConfig(
        **_OPT, ffn_dim=48, enable_bias=False, layer_norm_elementwise_affine=False, activation_function="gelu"
    ),
    "llama, two blocks": LlamaConfig(**{**_LLAMA, "num_hidden_layers": 2}, attention_bias=True),
    "falcon, new, one norm": FalconConfig(
        **_FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1
    ),
    **{name: made() for name, made in VARIANTS.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DETAILS)
def test_details_that_families_cover(name):
    check_family(DETAILS[name])


# by default of those alone whose other tests are slow
@pytest.mark.parametrize("name", slow_but(CONFIGS, *(name for name in CONFIGS if name not in ALWAYS)))
def test_every_family(name):
    for check in families.CHECKS.keys() - {"work"}:  # which tests/planning/test_cost.py checks
        families.CHECKS[check](CONFIGS[name]())


WRONG = [
    ("gpt2", {"blocks": "hh"}, "paths: GPT2Model has no hh; did you mean h?"),
    ("bert", {"blocks": "encoder"}, "paths: encoder is not the list of all blocks"),
    ("opt", {"final_norm": "final_layer_norm"}, "paths: OPTModel has no final_layer_norm"),
    ("opt", {"stages": (("self_attn.q_proj",), (), ("fc1",), ("fc2",))}, "paths: stages name"),
    ("gpt2", {"final_norm": None}, "cuts: split layer 1, no padding differ by"),
    ("gpt2", {"input_side": {}}, "cuts: split layer 1, no padding differ by"),
    ("opt", {"input_side": {}}, "cuts: split layer 1, no padding differ by"),
    ("bert", {"input_side": {}}, "cuts: split layer 1, no padding differ by"),
    ("gpt_neox", {"parallel": lambda *_: False}, "work: adapters on attention.query_key_value from block 0 on"),
    ("bert", {"ends_in_norm": False}, "work: adapters on attention.self.query from block 3 on, checkpointing"),
    ("mpnet", {"packs": True}, "real tokens: a row of real tokens differ by"),
    ("deberta-v2", {"relative_positions": lambda *_: 0}, "work: adapters on attention.self.query_proj from block 0"),
    ("opt", {"stages": (*family_of("opt").stages[:2], ("fc2",), ("fc1",))}, "work: adapters on fc2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attributes", "message"), WRONG)
def test_what_is_wrong_is_found_and_said(name, attributes, message, monkeypatch):
    wrong = varied(family_of(name), **attributes)
    monkeypatch.setattr(families, "family_of", lambda _: wrong)
    with pytest.raises(AssertionError) as error:
        check_family(CONFIGS[name]())
    assert str(error.value).startswith(f"{name}, {message.split(':')[0]}: ") and message in str(error.value)


def test_targets_that_no_layer_has(monkeypatch):
    wrong = varied(family_of("gpt2"), targets=("c_atn",))
    monkeypatch.setattr(families, "family_of", lambda _: wrong)
    with pytest.raises(ConfigError, match="no linear layer of a block is named 'c_atn'"):
        check_family(CONFIGS["gpt2"]())
