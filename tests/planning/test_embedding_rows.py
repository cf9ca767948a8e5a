"""What rows of the token embedding take instead of its table, in the memory of a planned client."""

import pytest
from transformers import GPT2Config, LlamaConfig

from atlas_cli.models.families import family_of
from atlas_cli.planning.memory.embedding_rows import assumed_rows, distinct_tokens
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step

# with the vocabulary, the width and the keys of Gemma 3 270M
WIDE = {"vocab_size": 262_144, "hidden_size": 640, "num_attention_heads": 4, "num_key_value_heads": 1}


def test_tokens_count_once_and_padding_is_one_of_them():
    features = [{"input_ids": [7, 3, 7]}, {"input_ids": [3, 900]}]
    assert distinct_tokens(features, 0).tolist() == [0, 3, 7, 900]
    assert distinct_tokens(features, 7).tolist() == [3, 7, 900]
    assert (assumed_rows(100), assumed_rows(262_144)) == (100, 16_384)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "dtype", "table", "row"),
    [
        (GPT2Config(), "float32", 50257 * 768 * 4, 768 * 4 + 8),
        (LlamaConfig(**WIDE, intermediate_size=2048), "bfloat16", 262_144 * 640 * 2, 640 * 2 + 8),
    ],
)
def test_a_client_holds_rows_and_the_numbers_of_their_tokens_instead_of_the_table(config, dtype, table, row):
    given = family_of(config.model_type), config, 6, {}, {}
    whole = predict_client(*given, Step(8, 128, dtype=dtype, fused_gelu=True))
    rows = predict_client(*given, Step(8, 128, dtype=dtype, fused_gelu=True, embedding_rows=5000))
    assert whole.frozen_weights - rows.frozen_weights == table - 5000 * row
    assert whole.peak - rows.peak == table - 5000 * row
