"""How a party holds its frozen weights, and the bytes of a quantised one."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, Self, get_args

Quantization = Literal["none", "nf4", "nf4-double", "int8"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

BLOCK = 64  # weights of 4 bits that share a scale (QLoRA, 2305.14314)
SCALES = 256  # scales of 8 bits that share a scale of theirs


class _Said(Protocol):
    @property
    def dtype(self) -> str: ...
    @property
    def quantization(self) -> Quantization: ...


class WeightFormat(NamedTuple):
    """How frozen weights are held.

    Attributes:
        dtype: of those that are not quantised, and of activations: "float32" or "bfloat16".
        quantization: of the linear layers of the blocks.
        embedding: of the tokens: the whole table, or the rows that are used.
    """

    dtype: str = "float32"
    quantization: Quantization = "none"
    embedding: Literal["table", "rows"] = "table"

    @property
    def with_table(self) -> WeightFormat:
        """The same with the whole table of embeddings."""
        return self._replace(embedding="table")

    @classmethod
    def of(cls, said: _Said) -> Self:
        """What a config says of a client or, under ``model``, of the server; with the whole table of embeddings."""
        return cls(said.dtype, said.quantization)


def quantized_bytes(d_out: int, d_in: int, quantization: Quantization) -> int:
    """The bytes of a quantised weight of d_out x d_in numbers, with its scales and the table of its levels.

    nf4 has a float32 scale for each block of 64 weights and 16 levels. nf4-double keeps these scales in 8 bits, with a
    float32 scale for each 256 of them, their mean and a table of 256 levels. int8 has a float32 scale for each row.
    """
    n = d_out * d_in
    scales = -(-n // BLOCK)
    match quantization:
        case "nf4":
            return -(-n // 2) + 4 * scales + 4 * 16
        case "nf4-double":
            return -(-n // 2) + scales + 4 * -(-scales // SCALES) + 4 + 4 * 256 + 4 * 16
        case "int8":
            return n + 4 * d_out
        case "none":
            raise ValueError("the bytes of a weight that is not quantised are those of its dtype")
