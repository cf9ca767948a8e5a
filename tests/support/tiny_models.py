"""Tiny models and a tokenizer, made on the spot: no network, no weights to ship."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    ModernBertConfig,
    MPNetConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RobertaConfig,
    SmolLM3Config,
    XLMRobertaConfig,
)

from atlas_cli.models.families.contract import BaseFamily
from support.slow import slow_but

WORDS = (
    "the a film movie game phone price city river good great fine bad awful poor was is and very not "
    "who what where when how many people play win free call now prize we saw it in on of to paris london "
    "john mary acme works for lives"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<|endoftext|>"]
VOCABULARY = len(SPECIAL) + len(WORDS)
_SIZE = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 4}
_LLAMA = {
    **_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_MIXED = ["sliding_attention", "full_attention"] * 2
_BERT = {**_SIZE, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
_FALCON = {
    **_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "ffn_hidden_size": 48,
    "max_position_embeddings": 64,
}
_LLAMA_3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

_DECODERS = {
    "gpt2": lambda: GPT2Config(**_SIZE, n_embd=32, n_layer=4, n_head=4, n_positions=64),
    "llama": lambda: LlamaConfig(**_LLAMA),
    "mistral": lambda: MistralConfig(**_LLAMA, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**_LLAMA, use_sliding_window=True, sliding_window=3, max_window_layers=2),
    "qwen3": lambda: Qwen3Config(**_LLAMA, head_dim=8),
    "opt": lambda: OPTConfig(
        **_SIZE, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, ffn_dim=48, max_position_embeddings=64
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_BERT, max_position_embeddings=64),
    "mixtral": lambda: MixtralConfig(**_LLAMA, num_local_experts=4, num_experts_per_tok=2, sliding_window=4),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_LLAMA, head_dim=8, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24
    ),
    "gemma3_text": lambda: Gemma3TextConfig(
        **_LLAMA,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=4,
        layer_types=_MIXED,
        final_logit_softcapping=30.0,
    ),
    "gemma2": lambda: Gemma2Config(
        **_LLAMA,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=4,
        final_logit_softcapping=30.0,
        attn_logit_softcapping=5.0,
    ),
    "falcon": lambda: FalconConfig(**_FALCON),
    "olmo2": lambda: Olmo2Config(**_LLAMA),
    "phi": lambda: PhiConfig(**_LLAMA, qk_layernorm=True),
    "phi3": lambda: Phi3Config(**_LLAMA, sliding_window=4, partial_rotary_factor=0.75),
    "smollm3": lambda: SmolLM3Config(**_LLAMA, no_rope_layers=[1, 0, 1, 0], use_sliding_window=True, sliding_window=4),
}
_ENCODERS = {
    "bert": lambda: BertConfig(**_BERT, max_position_embeddings=64),
    "roberta": lambda: RobertaConfig(**_BERT, max_position_embeddings=66),
    "xlm-roberta": lambda: XLMRobertaConfig(**_BERT, max_position_embeddings=66),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=VOCABULARY, pad_token_id=0, dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=64
    ),
    "modernbert": lambda: ModernBertConfig(
        **_BERT, cls_token_id=2, sep_token_id=3, max_position_embeddings=64, local_attention=4, initializer_range=0.2
    ),
    "electra": lambda: ElectraConfig(**_BERT, embedding_size=16, max_position_embeddings=64),
    "mpnet": lambda: MPNetConfig(**_BERT, max_position_embeddings=66),
    "deberta-v2": lambda: DebertaV2Config(
        **_BERT,
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=4,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
    ),
}
# decoders that compute in another way than those of their family above
VARIANTS = {
    "llama-3": lambda: LlamaConfig(**_LLAMA, rope_parameters={**_LLAMA_3, "original_max_position_embeddings": 16}),
    "llama-mqa-tied": lambda: LlamaConfig(**{**_LLAMA, "num_key_value_heads": 1}, tie_word_embeddings=True),
    "falcon-new": lambda: FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon-alibi": lambda: FalconConfig(**_FALCON, alibi=True, parallel_attn=False, multi_query=False, bias=True),
}
CONFIGS = {**_DECODERS, **_ENCODERS}
CAUSAL = tuple(_DECODERS)
# in the default run these have every test; of the others it has their own checks (tests/testing/test_family_checks.py)
ALWAYS = {"gpt2", "llama", "mistral", "qwen2", "qwen3", "opt", "gpt_neox", "bert", "roberta", "distilbert"}
FAMILIES = slow_but(CONFIGS, *ALWAYS)
CAUSAL_FAMILIES = slow_but(CAUSAL, *ALWAYS.intersection(CAUSAL))
PACKED_FAMILIES = slow_but(
    (name for name in CONFIGS if name not in ("mpnet", "deberta-v2", "gemma2", "falcon")), *ALWAYS
)


def varied(family: BaseFamily, **attributes: object) -> BaseFamily:
    """A family that says something else here and there."""
    found: BaseFamily = type("Varied", (type(family),), attributes)()
    return found


def word_tokenizer(causal: bool) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: decoders without special tokens, encoders with [CLS] and [SEP]."""
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if causal:
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="<|endoftext|>"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_model(family: str):
    """A randomly initialised Hugging Face model with 4 layers of width 32; decoders with their LM head."""
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if family in CAUSAL or family in VARIANTS else AutoModel
    return auto.from_config((CONFIGS | VARIANTS)[family]()).eval()
