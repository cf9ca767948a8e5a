"""Encoders: BERT and its relatives."""

from __future__ import annotations

from typing import Any


def _encoder(model_type: str, dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    return {"model_type": model_type, "dtype": dtype, **fields}


ENCODERS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": _encoder("bert"),
    "bert-large-uncased": _encoder(
        "bert", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "distilbert-base-uncased": _encoder("distilbert"),
    "roberta-base": _encoder("roberta", vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
}
