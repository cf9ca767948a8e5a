"""A tiny LLaMA model as a GGUF file, written with the gguf package as llama.cpp's converter would."""

import gguf

from support.tiny_models import SPECIAL, VOCABULARY

# letters, a space, two merges, and names that never match
TOKENS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", "\u0120", "th", "the"]
TOKENS += [f"<{i}>" for i in range(VOCABULARY - len(TOKENS))]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight, heads):
    """llama.cpp stores the two halves of a rotary head as pairs."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_llama(file, whole, change=None):
    """All weights of a LlamaForCausalLM in float32, and a byte-level tokenizer of single letters.

    ``change(writer, weights)`` may write more, and rename or drop weights.
    """
    config = whole.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (VOCABULARY - len(SPECIAL))
    )
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(4)
    writer.add_eos_token_id(4)
    weights = {name: tensor.numpy() for name, tensor in whole.state_dict().items()}
    stored = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        for theirs, name in NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if name == "attn_q":
                weight = interleaved(weight, config.num_attention_heads)
            if name == "attn_k":
                weight = interleaved(weight, config.num_key_value_heads)
            stored[f"blk.{layer}.{name}.weight"] = weight
    if change is not None:
        change(writer, stored)
    for name, weight in stored.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
