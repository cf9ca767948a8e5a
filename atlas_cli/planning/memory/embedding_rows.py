"""Bytes of an embedding by the row (``models.frozen.row_embedding``), and how many rows there are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.memory.step import ELEMENT
from atlas_cli.tasks.contract import Feature

_TOKEN = 8  # bytes of a token's number, by which its row is found
# where a client's texts are not known: 200,000 tokens of English news or films have 12,650 to 17,083 different ones
ASSUMED_ROWS = 16_384


def row_embedding_bytes(rows: int, width: int, dtype: str) -> int:
    """Bytes of ``rows`` rows of ``width`` numbers each, and of the numbers of their tokens.

    Args:
        width: of the embedding, which is the hidden size in most models.
        dtype: "float32" or "bfloat16".
    """
    return rows * (width * ELEMENT[dtype] + _TOKEN)


def distinct_tokens(features: Iterable[Feature], pad: int) -> Tensor:
    """The tokens of some examples and that of padding, sorted, each once."""
    tokens = chain([pad], chain.from_iterable(feature["input_ids"] for feature in features))
    return torch.from_numpy(np.unique(np.fromiter(tokens, np.int64)))


def held_tokens(format: WeightFormat, features: Iterable[Feature], pad: int) -> Tensor | None:
    """The tokens whose rows a client with these examples holds; None where it holds the whole table."""
    return distinct_tokens(features, pad) if format.embedding == "rows" else None


def assumed_rows(vocabulary: int) -> int:
    """The number of rows where a client's texts are not known."""
    return min(ASSUMED_ROWS, vocabulary)
