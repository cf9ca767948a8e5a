"""Checks config.json: it refuses options that atlas does not support, and values that no model can have."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from atlas_cli.errors import ConfigError
from atlas_cli.models.families import computed_options, family_for
from atlas_cli.models.families._refused import TWO_STACKS
from atlas_cli.models.files.quantized_checkpoints import told_by
from atlas_cli.models.files.rotary_tables import rotary_tables
from atlas_cli.suggest import did_you_mean

_NONE: tuple[object, ...] = (None, False, 0, "", {}, [])
_CODE = "asks for code that is not transformers' own, which atlas never fetches or runs"
_KERNEL = f"{_CODE}; it takes eager and sdpa"
_DROPPED = "is not implemented by transformers 5, which would compute another model without a word"
_EXPERTS = "is not grouped_mm, the one whose memory and FLOPs are known; remove it"
_OTHER = "is an option that atlas does not take, as its halves would compute another model"

# by name: values that change nothing, and why others are refused
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "auto_map": (_NONE, f"{_CODE}; remove it from a local copy if transformers' class of this model_type computes it"),
    "custom_generate": (_NONE, _CODE),
    "attn_implementation": ((None, "eager", "sdpa"), _KERNEL),
    "_attn_implementation": ((None, "eager", "sdpa"), _KERNEL),
    "experts_implementation": ((None, "grouped_mm"), _EXPERTS),
    "_experts_implementation": ((None, "grouped_mm"), _EXPERTS),
    "use_kernels": (_NONE, _CODE),
    "kernel_config": (_NONE, _CODE),
    "fusion_config": (_NONE, _OTHER),
    "per_layer_config": (_NONE, _OTHER),
    "distributed_config": (_NONE, _OTHER),
    "transformers_weights": (_NONE, "names another file than model.safetensors; rename that file and remove the key"),
    "chunk_size_feed_forward": (_NONE, "computes feed-forwards in chunks, which atlas does not; set it to 0"),
    "position_embedding_type": ((None, "absolute"), _DROPPED),
    "pruned_heads": (_NONE, _DROPPED),
    "partial_rotary_factor": ((None, 1), _DROPPED),
    "use_bidirectional_attention": (_NONE, _DROPPED),
    "alibi": (_NONE, _DROPPED),
    "is_causal": ((None, True), _OTHER),
    "add_cross_attention": (_NONE, "needs an encoder beside the model, which atlas does not have"),
    "is_encoder_decoder": (_NONE, f"is not covered: {TWO_STACKS}"),
}
_QUANTIZED = ("quantization_config", "compression_config")
_SIZES = (
    *("num_hidden_layers", "n_layer", "n_layers", "hidden_size", "n_embd", "dim", "num_attention_heads", "n_head"),
    *("n_heads", "num_key_value_heads", "head_dim", "intermediate_size", "n_inner", "hidden_dim", "vocab_size"),
    *("max_position_embeddings", "n_positions", "type_vocab_size"),
    *("num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
)
# other spellings of what is in rope_parameters
_ROTARY = {
    "rope_theta": ("rope_theta", "full_attention.rope_theta"),
    "rope_local_base_freq": ("sliding_attention.rope_theta",),
    "global_rope_theta": ("full_attention.rope_theta",),
    "local_rope_theta": ("sliding_attention.rope_theta",),
    "rotary_emb_base": ("rope_theta",),
    "partial_rotary_factor": ("partial_rotary_factor",),
    "rotary_pct": ("partial_rotary_factor",),
}
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")
_SMALL = ("norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps")
_LARGEST = 2**31
_NO_SIZE = "is not a whole number from 1 on that a size can be"
# of training and saving, of older versions, and of outputs that atlas has no use for
_NO_MATTER = (
    *("name_or_path", "attn_implementation_autoset", "num_labels", "torch_dtype", "rope_scaling", "rope_theta"),
    *("gradient_checkpointing", "finetuning_task", "task_specific_params", "output_past", "use_return_dict", "n_ctx"),
    *(
        "pretraining_tp",
        "tie_weights_",
        "torchscript",
        "use_bfloat16",
        "model_name",
        "unsloth_fixed",
        "unsloth_version",
    ),
    *("tie_encoder_decoder", "cross_attention_hidden_size", "adapters", "xla_device", "tokenizer_class", "prefix"),
    *("sentence_transformers", "max_window_layers", "quantization", "pooler_fc_size", "pooler_num_attention_heads"),
    *("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "directionality", "output_attentions"),
    *("output_hidden_states", "return_dict", "base_model_tp_plan", "commit_hash", "reference_compile"),
    "repad_logits_with_grad",
)
_ATTENTION = ("full_attention", "sliding_attention")


def refuse_options(
    options: Mapping[str, Any], place: str, key: str = "model.name", computed: Collection[str] = ()
) -> None:
    """Check options by their names, before transformers is given them.

    Args:
        place: what holds them, e.g. the path of config.json and a colon, for the message.
        computed: names that this model's family computes.

    Raises:
        ConfigError: one that atlas does not take.
    """
    for name in _QUANTIZED:
        if options.get(name) not in _NONE:
            raise ConfigError(f"{place}{name}: {told_by(options[name])}", key=key)
    for name, (neutral, why) in REFUSED.items():
        if name in options and options[name] not in neutral and name not in computed:
            raise ConfigError(f"{place}{name}: {_short(options[name])} {why}", key=key)
    for name in _SIZES:  # before a config class divides by one
        if isinstance(options.get(name), int) and not _is_size(options[name]) and name not in computed:
            raise ConfigError(f"{place}{name}: {_short(options[name])} {_NO_SIZE}", key=key)
    rotary = rotary_tables(options.get("rope_parameters"))
    for spelling, names in _ROTARY.items():
        for table, _, name in (f"rope_parameters.{name}".rpartition(".") for name in names):
            taken = rotary.get(table, {}).get(name)
            if taken is not None and options.get(spelling) not in (None, taken):
                of = "" if (table, name) == ("rope_parameters", spelling) else f".{name}"
                raise ConfigError(
                    f"{place}{spelling}: {_short(options[spelling])} is not the {_short(taken)} of {table}{of}, which "
                    "transformers takes; remove one",
                    key=key,
                )


def unknown_options(options: Mapping[str, Any], config: PreTrainedConfig) -> list[str]:
    """The options of config.json that transformers' class ignores, except those that are known to have no effect."""
    known = {*type(config)().to_dict(), *config.attribute_map, *REFUSED, *_QUANTIZED, *_NO_MATTER}
    known |= {*GenerationConfig().to_dict(), *computed_options(config.model_type)}
    return sorted(name for name in options if name not in known and name.lstrip("_") not in known)


def require_values(config: PreTrainedConfig, place: str, key: str = "model.name") -> None:
    """Check that a config's values can be those of a model, and that its family covers them.

    Raises:
        ConfigError: one that cannot, or is not covered; names it as the file does.
    """
    for name, value, why in (*_impossible(config), *_uncovered(config)):
        raise ConfigError(f"{place}{config.attribute_map.get(name, name)}: {_short(value)} {why}", key=key)


def _impossible(config: PreTrainedConfig) -> Iterator[tuple[str, object, str]]:
    computed = computed_options(config.model_type)
    for name in (*_SIZES, "sliding_window"):
        value = getattr(config, name, None)
        if value is not None and not _is_size(value) and name not in computed:
            yield name, value, _NO_SIZE
    for name in _ACTIVATIONS:
        value = getattr(config, name, None)
        if isinstance(value, str) and value not in ACT2FN:
            yield name, value, f"is no activation function of transformers{did_you_mean(value, ACT2FN)}"
    for name in _SMALL:
        value = getattr(config, name, None)
        if value is not None and not 0 <= value < 1:
            yield name, value, "is not between 0 and 1"
    heads, shared = getattr(config, "num_attention_heads", None), getattr(config, "num_key_value_heads", None)
    if heads and shared and heads % shared:
        yield "num_key_value_heads", shared, f"does not divide num_attention_heads {heads}; set both"
    padding, rows = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", 0)
    if padding is not None and not -rows <= padding < rows:
        yield "pad_token_id", padding, f"has no row in an embedding of {rows} (vocab_size)"
    for kind in getattr(config, "layer_types", None) or ():
        if kind not in _ATTENTION:
            yield "layer_types", kind, f"is not one of {', '.join(_ATTENTION)}"
        if kind == "sliding_attention" and getattr(config, "sliding_window", None) is None:
            yield "layer_types", kind, "needs a sliding_window (and use_sliding_window: true, where the model has that)"
    for place, table in rotary_tables(getattr(config, "rope_parameters", None)).items():
        yield from _impossible_rotary(place, table, computed)


def _uncovered(config: PreTrainedConfig) -> Iterator[tuple[str, object, str]]:
    family = family_for(config.model_type)
    for name, why in family.uncovered(config) if family is not None else ():
        value: Any = config
        for part in name.split("."):
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        yield name, value, why


def _impossible_rotary(
    place: str, rotary: Mapping[str, Any], computed: Collection[str]
) -> Iterator[tuple[str, object, str]]:
    known = ("default", *ROPE_INIT_FUNCTIONS)
    if (kind := rotary.get("rope_type", "default")) not in known:
        yield f"{place}.rope_type", kind, f"is not one of {', '.join(known)}"
    for name in ("rope_theta", "factor", "original_max_position_embeddings"):
        value = rotary.get(name)
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            yield f"{place}.{name}", value, "is not a number above 0"
    share = rotary.get("partial_rotary_factor", 1)
    if "partial_rotary_factor" not in computed:
        if share not in (None, 1):
            yield f"{place}.partial_rotary_factor", share, _DROPPED
    elif not (isinstance(share, int | float) and 0 < share <= 1):
        yield f"{place}.partial_rotary_factor", share, "is not a share of a head, above 0 and at most 1"


def _is_size(value: object) -> bool:
    return isinstance(value, int) and 1 <= value < _LARGEST


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
