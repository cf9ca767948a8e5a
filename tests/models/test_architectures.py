"""The built-in architectures: sizes and dtypes as published, by names as they are on the hub."""

import pytest
from support.slow import slow_but

from atlas_cli.models.block_config import shortened
from atlas_cli.models.families import family_of
from atlas_cli.models.files.architectures import ARCHITECTURES, built_in
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.planning.published_dtype import dtype_note, planned_dtype, published_dtype

# parameters as published, tied embeddings once, without the poolers and heads of encoders
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "bert-base-uncased": 109_482_240 - 590_592,
    "bert-large-uncased": 335_141_888 - 1_049_600,
    "distilbert-base-uncased": 66_362_880,
    "roberta-base": 124_645_632 - 590_592,
    "modernbert-base": 149_655_232 - 640_960,
    "modernbert-large": 395_881_664 - 1_099_968,
    "deberta-v3-small": 141_304_320,
    "deberta-v3-base": 183_831_552,
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "pythia-14m": 14_067_712,
    "pythia-31m": 30_494_720,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "phi-4-mini": 3_836_021_760,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 4_300_079_472 - 416_866_032 - 2_950_272,  # the tower and the projector that read images
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
}


def parameters(name):
    """Those of a model of two blocks, and of the further ones: all but the first, which may lack a norm, are alike."""
    config = built_in(name)
    family = family_of(config.model_type)
    base, output = meta_model(shortened(config, 2), family)
    held = {id(p): p.numel() for module in (base, output) if module is not None for p in module.parameters()}
    block = sum(p.numel() for p in base.get_submodule(f"{family.blocks}.1").parameters())
    return sum(held.values()) + (config.num_hidden_layers - 2) * block


def test_the_list_is_whole():
    assert set(PUBLISHED) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", slow_but(PUBLISHED, "opt-125m", "pythia-70m", "llama-3.2-1b", "gemma-3-270m"))
def test_each_has_as_many_parameters_as_were_published(name):
    assert parameters(name) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "known", "dtype"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b", "bfloat16"),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b", "bfloat16"),
        ("EleutherAI/pythia-70m-deduped", "pythia-70m", "float16"),
        ("facebook/opt-125m", "opt-125m", "float16"),
        ("openai-community/gpt2", "gpt2", "float32"),
        ("microsoft/Phi-4-mini-instruct", "phi-4-mini", "bfloat16"),
        ("google/gemma-3-1b-it", "gemma-3-1b", "bfloat16"),
    ],
)
def test_names_of_the_hub_and_dtypes_as_published(name, known, dtype):
    config = built_in(name)
    assert config.to_dict() == built_in(known).to_dict()
    assert published_dtype(config) == dtype
    assert built_in(f"{name}-other") is None


@pytest.mark.parametrize(
    ("published", "planned", "note"),
    [
        ("bfloat16", "bfloat16", "in bfloat16, as they are published;"),
        ("float16", "bfloat16", "in bfloat16, as large as the published float16;"),
        ("float32", "float32", "in float32, as they are published;"),
        (None, "float32", "in float32; the model's config names no dtype;"),
    ],
)
def test_a_plan_takes_the_published_dtype_and_says_so(published, planned, note):
    config = built_in("gpt2")
    config.dtype = published
    assert (published_dtype(config), planned_dtype(config)) == (published, planned)
    assert dtype_note(planned, published) == f"planned for weights {note} see --dtype"
    assert dtype_note("float32", "bfloat16") == (
        "planned for weights in float32, and published in bfloat16; see --dtype"
    )
