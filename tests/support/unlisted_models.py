"""Tiny configs of architectures of transformers, of which most have no family file: what their shape gives."""

from transformers import CONFIG_MAPPING

_PLAIN = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 4,
}  # fmt: skip
_GROUPED = {**_PLAIN, "num_key_value_heads": 2}
_WIDE_HEADS = {**_GROUPED, "head_dim": 8}
_GPT = {
    "vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_inner": 48,
    "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 4,
}  # fmt: skip
_ROTARY_GPT = {**_GPT, "rotary_dim": 4}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}

# by model_type; the split is the unsplit model at every cut
EQUAL = {
    **dict.fromkeys(("apertus", "arcee", "cohere", "cohere2", "exaone4", "nemotron", "olmo", "olmo3"), _GROUPED),
    **dict.fromkeys(("stablelm", "starcoder2"), _GROUPED),
    **dict.fromkeys(("ernie4_5", "gemma", "glm", "glm4", "helium", "hunyuan_v1_dense", "ministral"), _WIDE_HEADS),
    "seed_oss": _WIDE_HEADS,
    **dict.fromkeys(("biogpt", "persimmon"), _PLAIN),
    "bloom": {"vocab_size": 60, "hidden_size": 32, "n_layer": 3, "n_head": 4, "pad_token_id": 0},
    **dict.fromkeys(("codegen", "gptj"), _ROTARY_GPT),
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        "vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]], "intermediate_size": 48,
    },
    "mpt": {"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 2, "max_seq_len": 64},
    "xglm": {
        "vocab_size": 60, "d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48,
        "max_position_embeddings": 64, "pad_token_id": 0,
    },
    "granitemoe": _LOCAL_EXPERTS,
    "olmoe": _EXPERTS,
    "qwen2_moe": {**_EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    **dict.fromkeys(("big_bird", "camembert", "data2vec-text", "deberta", "ernie", "esm", "fnet"), _PLAIN),
    **dict.fromkeys(("layoutlm", "megatron-bert", "nomic_bert", "roberta-prelayernorm", "roformer"), _PLAIN),
    **dict.fromkeys(("splinter", "xlm-roberta-xl", "yoso"), _PLAIN),
    "eurobert": _GROUPED,
}  # fmt: skip
# a split is found, and is not the model
DIFFERENT = {"granite": {**_GROUPED, "embedding_multiplier": 12.0}}
# nothing is found, and why
REFUSED = {
    "bigbird_pegasus": ({}, "an encoder reads and a decoder"),
    "mamba": ({"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3}, "its blocks cannot be taken apart"),
    "rembert": ({**_PLAIN, "input_embedding_size": 16}, "its modules do not run on embeddings of 32 numbers alone"),
    "squeezebert": ({**_PLAIN, "embedding_size": 32}, "a block (SqueezeBertModule) runs no linear layer"),
}


def unlisted(model_type: str, options: dict):
    """The config of an architecture."""
    return CONFIG_MAPPING[model_type](**options)
