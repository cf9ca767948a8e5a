"""Which layers get an adapter of which rank, and what a config that cannot be placed is told."""

import pytest
from support.tiny_models import CONFIGS, FAMILIES, tiny_model

from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import build_adapters
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.block_paths import by_layer
from atlas_cli.models.families import family_of, supported
from atlas_cli.models.frozen.load import check_cut

LLAMA_LIKE = (
    *("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"),
    *("gemma3_text", "gemma2", "olmo2", "phi", "smollm3"),
)
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "electra")
DEFAULTS = {
    "gpt2": ["attn.c_attn"],
    **{name: ["self_attn.q_proj", "self_attn.v_proj"] for name in LLAMA_LIKE},
    **{
        name: ["attention.self.query", "attention.self.value"] for name in ("bert", "roberta", "xlm-roberta", "electra")
    },
    "opt": ["self_attn.v_proj", "self_attn.q_proj"],
    "falcon": ["self_attention.query_key_value"],
    "phi3": ["self_attn.qkv_proj"],
    "gpt_neox": ["attention.query_key_value"],
    "distilbert": ["attention.q_lin", "attention.v_lin"],
    "modernbert": ["attn.Wqkv"],
    "mpnet": ["attention.attn.q", "attention.attn.v"],
    "deberta-v2": ["attention.self.query_proj", "attention.self.value_proj"],
}


@pytest.fixture(scope="module")
def bases():
    made = {}

    def base(family):
        if family not in made:
            model = tiny_model(family)
            fam = family_of(model.config.model_type)
            made[family] = (model.base_model if fam.causal else model, fam)
        return made[family]

    return base


@pytest.mark.parametrize("family", FAMILIES)
def test_default_targets(bases, family):
    assert adapted_names(*bases(family), "auto") == DEFAULTS[family]


@pytest.mark.parametrize(
    ("family", "targets", "found"),
    [
        ("llama", ["v_proj"], ["self_attn.v_proj"]),
        ("llama", ["self_attn.v_proj"], ["self_attn.v_proj"]),
        ("llama", ["down_proj", "q_proj"], ["self_attn.q_proj", "mlp.down_proj"]),
        ("llama", ["q_proj", "self_attn.q_proj"], ["self_attn.q_proj"]),
        ("gpt2", ["c_proj"], ["attn.c_proj", "mlp.c_proj"]),
        ("gpt2", ["mlp.c_proj"], ["mlp.c_proj"]),
        ("bert", ["dense"], ["attention.output.dense", "intermediate.dense", "output.dense"]),
        ("bert", ["output.dense"], ["attention.output.dense", "output.dense"]),
    ],
)
def test_targets_are_ends_of_paths_in_the_order_of_the_block(bases, family, targets, found):
    assert adapted_names(*bases(family), targets) == found


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("llama", ["q_prj"], "lora.targets: no linear layer of a block is named 'q_prj'"),
        # a part of a name is not an end of a path, and a norm is not a linear layer
        ("llama", ["proj"], "lora.targets: no linear layer of a block is named 'proj'"),
        ("llama", ["v_proj", "input_layernorm"], "lora.targets: no linear layer of a block is named 'input_layernorm'"),
        ("llama", [], "lora.targets: names no layer; give ends of layer names, or auto"),
    ],
)
def test_targets_that_match_nothing(bases, family, targets, message):
    with pytest.raises(ConfigError) as error:
        adapted_names(*bases(family), targets)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_one_rank_for_all_layers(bases):
    base, family = bases("gpt2")
    ranks = place_ranks(base, family, 4, range(3), ["attn.c_attn", "mlp.c_fc"])
    assert list(ranks.items()) == [
        (f"h.{layer}.{name}", 4) for layer in range(3) for name in ("attn.c_attn", "mlp.c_fc")
    ]


def test_ranks_by_layer_with_gaps_in_the_order_of_the_layers(bases):
    base, family = bases("bert")
    ranks = place_ranks(base, family, {2: 8, 0: 1}, range(3), DEFAULTS["bert"])
    start = "encoder.layer"
    assert list(ranks.items()) == [
        (f"{start}.{layer}.attention.self.{name}", rank)
        for layer, rank in ((0, 1), (2, 8))
        for name in ("query", "value")
    ]
    assert by_layer(ranks, family) == {0: 1, 2: 8}


@pytest.mark.parametrize("family", FAMILIES)
def test_by_layer_reverses_placement(bases, family):
    base, fam = bases(family)
    wanted = {1: 2, 3: 5}
    assert by_layer(place_ranks(base, fam, wanted, range(4), DEFAULTS[family]), fam) == wanted


def test_sizes_with_grouped_query_attention(bases):
    """The value projection is 32 x 16: its rank ends at 16, the query's at 32."""
    base, family = bases("llama")
    assert place_ranks(base, family, 32, range(1), ["self_attn.q_proj"]) == {"layers.0.self_attn.q_proj": 32}
    both = place_ranks(base, family, 16, range(1), DEFAULTS["llama"])
    adapters = build_adapters(base, both, alpha=1.0)
    shapes = {name: tuple(t.shape) for name, t in adapters.state().items()}
    assert shapes == {
        "layers.0.self_attn.q_proj.lora_A": (16, 32),
        "layers.0.self_attn.q_proj.lora_B": (32, 16),
        "layers.0.self_attn.v_proj.lora_A": (16, 32),
        "layers.0.self_attn.v_proj.lora_B": (16, 16),
    }
    with pytest.raises(ConfigError) as error:
        place_ranks(base, family, {0: 1, 1: 17}, range(2), DEFAULTS["llama"], "clients.phone.rank")
    assert str(error.value) == "clients.phone.rank: rank 17 is above 16, the size of layers.1.self_attn.v_proj"


@pytest.mark.parametrize("layer", [2, 3, 9])
def test_a_layer_above_the_cut(bases, layer):
    base, family = bases("gpt2")
    with pytest.raises(ConfigError) as error:
        place_ranks(base, family, {0: 4, layer: 4}, range(2), ["attn.c_attn"])
    assert str(error.value) == (
        f"lora.rank: layer {layer} is not on the client half, which has layers 0 to 1; "
        "move it below model.split_layer or raise that"
    )


@pytest.mark.parametrize(("n_layers", "middle"), [(1, 1), (2, 1), (3, 1), (6, 3), (12, 6), (32, 16)])
def test_the_default_cut_is_the_middle(n_layers, middle):
    assert check_cut(None, n_layers) == middle


@pytest.mark.parametrize("cut", [1, 4])
def test_the_smallest_and_the_largest_cut(cut):
    assert check_cut(cut, 4) == cut


@pytest.mark.parametrize("cut", [0, 5, -1])
def test_a_cut_out_of_range(cut):
    with pytest.raises(ConfigError) as error:
        check_cut(cut, 4)
    assert str(error.value) == f"model.split_layer: {cut} is out of range; the model has 4 layers: 1 to 4"


def test_an_architecture_that_is_not_supported_is_told_what_is():
    with pytest.raises(ConfigError) as error:
        family_of("bloom")
    listed = ", ".join(supported())
    assert str(error.value) == (
        f"model.name: architecture 'bloom' is not supported; supported: {listed} (a new family is one file in "
        "atlas_cli/models/families/, or a plug-in of another package)"
    )
    assert set(CONFIGS) <= set(supported())


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("albert", "its blocks are one block's weights, run again and again: an adapter .*; take a model whose blocks"),
        ("t5", "an encoder reads and a decoder, .* writes; take a decoder .* or an encoder"),
    ],
)
def test_an_architecture_that_no_cut_fits_is_refused_with_the_reason(model_type, why):
    with pytest.raises(ConfigError, match=rf"^model\.name: architecture '{model_type}' is not supported: {why}"):
        family_of(model_type)
