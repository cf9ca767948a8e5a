"""Encoders: BERT and its relatives."""

from __future__ import annotations

from typing import Any


def _encoder(model_type: str, dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    return {"model_type": model_type, "dtype": dtype, **fields}


def _deberta_v3(layers: int) -> dict[str, Any]:
    return _encoder(
        "deberta-v2",
        "float16",
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=12,
        vocab_size=128100,
        type_vocab_size=0,
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=256,
        max_relative_positions=-1,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        layer_norm_eps=1e-7,
    )


ENCODERS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": _encoder("bert"),
    "bert-large-uncased": _encoder(
        "bert", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "distilbert-base-uncased": _encoder("distilbert"),
    "roberta-base": _encoder("roberta", vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "modernbert-base": _encoder("modernbert"),
    "modernbert-large": _encoder(
        "modernbert", hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=2624
    ),
    "deberta-v3-small": _deberta_v3(6),
    "deberta-v3-base": _deberta_v3(12),
}
