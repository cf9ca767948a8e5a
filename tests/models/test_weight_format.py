"""The bytes of quantised weights by their closed form."""

import pytest

from atlas_cli.models.frozen.weight_format import quantized_bytes


@pytest.mark.parametrize(
    ("shape", "quantization", "expected"),
    [
        ((768, 768), "nf4", 331_840),  # 4.5 bits a weight, and 16 levels
        ((768, 768), "nf4-double", 305_364),
        ((4096, 4096), "nf4", 9_437_248),
        ((4096, 4096), "nf4-double", 8_655_940),
        ((5, 13), "nf4", 33 + 4 * 2 + 64),  # an odd number, and a second block of one weight
        ((5, 13), "nf4-double", 33 + 2 + 4 + 4 + 1024 + 64),
        ((5, 13), "int8", 65 + 4 * 5),
    ],
)
def test_bytes_of_a_weight(shape, quantization, expected):
    assert quantized_bytes(*shape, quantization) == expected


def test_bits_a_weight_of_a_large_matrix():
    n = 2**20
    assert [round(8 * quantized_bytes(1024, n // 1024 * 64, q) / (64 * n), 3) for q in ("nf4", "nf4-double")] == [
        4.5,
        4.127,
    ]
    with pytest.raises(ValueError, match="not quantised"):
        quantized_bytes(4, 4, "none")
