"""Decoders: GPT-2, OPT, Pythia, and the relatives of LLaMA."""

from __future__ import annotations

from typing import Any


def _gpt2(**sizes: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "dtype": "float32", **sizes}


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "word_embed_proj_dim": hidden, "ffn_dim": 4 * hidden}
    return {
        "model_type": "opt",
        "dtype": "float16",
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **sizes,
    }


def _pythia(hidden: int, layers: int, heads: int, vocabulary: int = 50304) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        "dtype": "float16",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
    }


def _rotary(
    model_type: str,
    hidden: int,
    feed_forward: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    *,
    dtype: str = "bfloat16",
    **fields: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "dtype": dtype,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        **fields,
    }


_LLAMA_3: dict[str, Any] = {
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
}
_LLAMA_3_2: dict[str, Any] = {
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_QWEN2_5: dict[str, Any] = {
    "vocab_size": 151936,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}
_QWEN2_5_LARGE: dict[str, Any] = {"vocab_size": 152064, "rope_theta": 1e6, "max_position_embeddings": 131072}
_QWEN3: dict[str, Any] = {"vocab_size": 151936, "rope_theta": 1e6, "head_dim": 128, "max_position_embeddings": 40960}
_GEMMA_3: dict[str, Any] = {
    "vocab_size": 262144,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
}
_GEMMA_3_4B: dict[str, Any] = {
    "vocab_size": 262208,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 1024,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
# the rotary frequencies of Phi-4-mini are divided by these in texts of more than 4,096 tokens
_PHI_4_LONG = (
    *(1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898),
    *(2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424),
    *(6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252),
    *(16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6),
    *(32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77),
)
_PHI_4_MINI: dict[str, Any] = {
    "vocab_size": 200064,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "pad_token_id": 199999,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0] * 48,
        "long_factor": [float(each) for each in _PHI_4_LONG],
    },
}
_SMOLLM3: dict[str, Any] = {"vocab_size": 128256, "max_position_embeddings": 65536, "rope_theta": 5e6}

DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": _gpt2(),
    "gpt2-medium": _gpt2(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": _gpt2(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": _gpt2(n_embd=1600, n_layer=48, n_head=25),
    # opt-350m projects its embeddings and has other norms: no family covers it
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "pythia-14m": _pythia(128, 6, 4),
    "pythia-31m": _pythia(256, 6, 8),
    "pythia-70m": _pythia(512, 6, 8),
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-410m": _pythia(1024, 24, 16),
    "pythia-1b": _pythia(2048, 16, 8),
    "pythia-1.4b": _pythia(2048, 24, 16),
    "pythia-2.8b": _pythia(2560, 32, 32),
    "pythia-6.9b": _pythia(4096, 32, 32, 50432),
    "llama-7b": _rotary("llama", 4096, 11008, 32, 32, 32, dtype="float16"),
    "llama-13b": _rotary("llama", 5120, 13824, 40, 40, 40, dtype="float16"),
    "llama-2-70b": _rotary("llama", 8192, 28672, 80, 64, 8, dtype="float16", max_position_embeddings=4096),
    "llama-3-8b": _rotary("llama", 4096, 14336, 32, 32, 8, **_LLAMA_3),
    "llama-3-70b": _rotary("llama", 8192, 28672, 80, 64, 8, **_LLAMA_3),
    "llama-3.2-1b": _rotary("llama", 2048, 8192, 16, 32, 8, head_dim=64, **_LLAMA_3_2),
    "llama-3.2-3b": _rotary("llama", 3072, 8192, 28, 24, 8, head_dim=128, **_LLAMA_3_2),
    "smollm2-135m": _rotary("llama", 576, 1536, 30, 9, 3, rope_theta=100000.0, **_SMOLLM2),
    "smollm2-360m": _rotary("llama", 960, 2560, 32, 15, 5, rope_theta=100000.0, **_SMOLLM2),
    "smollm2-1.7b": _rotary("llama", 2048, 8192, 24, 32, 32, rope_theta=130000.0, **_SMOLLM2),
    "smollm3-3b": _rotary("smollm3", 2048, 11008, 36, 16, 4, **_SMOLLM3),
    "phi-4-mini": _rotary("phi3", 3072, 8192, 32, 24, 8, **_PHI_4_MINI),
    "gemma-3-270m": _rotary("gemma3_text", 640, 2048, 18, 4, 1, **_GEMMA_3),
    "gemma-3-1b": _rotary("gemma3_text", 1152, 6912, 26, 4, 1, **_GEMMA_3),
    "gemma-3-4b": _rotary("gemma3_text", 2560, 10240, 34, 8, 4, **_GEMMA_3_4B),  # without what reads images
    "qwen2.5-0.5b": _rotary("qwen2", 896, 4864, 24, 14, 2, **_QWEN2_5),
    "qwen2.5-1.5b": _rotary("qwen2", 1536, 8960, 28, 12, 2, **{**_QWEN2_5, "max_position_embeddings": 131072}),
    "qwen2.5-3b": _rotary("qwen2", 2048, 11008, 36, 16, 2, **_QWEN2_5),
    "qwen2.5-7b": _rotary("qwen2", 3584, 18944, 28, 28, 4, **_QWEN2_5_LARGE),
    "qwen2.5-14b": _rotary("qwen2", 5120, 13824, 48, 40, 8, rms_norm_eps=1e-5, **_QWEN2_5_LARGE),
    "qwen3-0.6b": _rotary("qwen3", 1024, 3072, 28, 16, 8, tie_word_embeddings=True, **_QWEN3),
    "qwen3-1.7b": _rotary("qwen3", 2048, 6144, 28, 16, 8, tie_word_embeddings=True, **_QWEN3),
    "qwen3-4b": _rotary("qwen3", 2560, 9728, 36, 32, 8, tie_word_embeddings=True, **_QWEN3),
    "qwen3-8b": _rotary("qwen3", 4096, 12288, 36, 32, 8, **_QWEN3),
    "qwen3-14b": _rotary("qwen3", 5120, 17408, 40, 40, 8, **_QWEN3),
}
