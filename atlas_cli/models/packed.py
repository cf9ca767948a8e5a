"""Only real tokens: the sequences of a batch one after another in one row, each attending to itself alone.

Linear layers, norms and activation functions see (1, N, D), N the number of real tokens, and compute nothing for
padding. Attention is called once for every run of neighbouring sequences of equal length, on views of the row: it
needs no mask, and pads nothing either. Positions count from the start of each sequence. Blocks are Hugging Face's own,
which look their attention function up by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from atlas_cli.models.split import run_half

ATTENTION = "atlas_packed"  # transformers makes no mask for an attention function that has none of its own


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a batch lie.

    Attributes:
        lengths: tokens of each sequence, in the order of the row.
        shape: (B, T) of the padded batch; of several batches in one row, that of none.
        places: (N,) int64, their places in the flattened (B * T).
        positions: (N,) int64, counted from the start of each sequence.
    """

    lengths: tuple[int, ...]
    shape: tuple[int, int]
    places: Tensor
    positions: Tensor

    @classmethod
    def of(cls, mask_BT: Tensor) -> Packing:
        """Of a batch that is padded on the right, as ``collate`` does; the mask is 1 for real tokens."""
        lengths = mask_BT.sum(1)
        in_row_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device).expand_as(mask_BT)
        places_N = (in_row_BT < lengths[:, None]).flatten().nonzero().squeeze(1)
        positions_N = in_row_BT.flatten()[places_N]
        return cls(tuple(lengths.tolist()), (mask_BT.shape[0], mask_BT.shape[1]), places_N, positions_N)

    @property
    def tokens(self) -> int:
        """N."""
        return sum(self.lengths)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...), 0 for padding."""
        padded = rows.new_zeros(self.shape[0] * self.shape[1], *rows.shape[1:])
        return padded.index_copy(0, self.places, rows).unflatten(0, self.shape)


def run_packed(base: nn.Module, half: nn.Module, lengths: Sequence[int], positions: Tensor, **rows: Tensor) -> Tensor:
    """Hidden states (N, D) of a half of ``base``, or of the whole.

    Args:
        lengths: tokens of each sequence of the row.
        positions: (N,) position of each token as the model numbers them, see ``positions_of``.
        rows: ``input_ids`` (N,), with ``token_type_ids`` (N,) where there are some, or ``inputs_embeds`` (N, D).
    """
    inputs = {name: tensor.unsqueeze(0) for name, tensor in rows.items()}
    with _packed_attention(base, half, lengths):
        return run_half(half, None, position_ids=positions.unsqueeze(0), **inputs)[0]


def worth(places: int, tokens: int) -> bool:
    """Whether a padded batch has so much padding that a row pays, in which attention is called more often."""
    return places > 1.05 * tokens


def run_real_tokens(base: nn.Module, half: nn.Module, mask_BT: Tensor, inputs_BTD: Tensor) -> Tensor:
    """Hidden states (B, T, D) of an upper half; as a row, and 0 for padding, where there is enough padding to save."""
    packing = Packing.of(mask_BT)
    if not worth(mask_BT.numel(), packing.tokens):
        return run_half(half, mask_BT, inputs_embeds=inputs_BTD)
    rows_ND = packing.pack(inputs_BTD)
    return packing.unpack(run_packed(base, half, packing.lengths, packing.positions, inputs_embeds=rows_ND))


def positions_of(base: nn.Module, packing: Packing, input_ids: Tensor) -> Tensor:
    """(N,) positions of a batch's tokens as ``base`` numbers them; RoBERTa counts from its padding token on.

    Args:
        input_ids: (B, T).
    """
    embeddings = getattr(base, "embeddings", None)
    numbered = getattr(embeddings, "create_position_ids_from_input_ids", None)
    if embeddings is None or numbered is None:
        return packing.positions
    return packing.pack(numbered(input_ids, embeddings.padding_idx, 0))


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Queries, keys and values (1, H, N, D_head) to (1, N, H, D_head)."""
    runs = [(length, len(list(same))) for length, same in groupby(_lengths.get())]
    sizes = [length * count for length, count in runs]
    window = options.get("sliding_window")
    outputs = []
    for (length, count), *parts in zip(runs, *(t.split(sizes, 2) for t in (query, key, value)), strict=True):
        q, k, v = (
            part[0].unflatten(1, (count, length)).transpose(0, 1) for part in parts
        )  # (count, H, length, D_head)
        mask = _within(window, length, query.device) if window is not None and length > window else None
        output, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0), None


def _within(window: int, length: int, device: torch.device) -> Tensor:
    """Which earlier tokens a token sees, (1, 1, T, T): itself and the ``window`` - 1 before it."""
    at = torch.arange(length, device=device)
    before = at[:, None] - at
    return ((before >= 0) & (before < window))[None, None]


_lengths: ContextVar[tuple[int, ...]] = ContextVar("lengths of the sequences in the row that is computed")
AttentionInterface.register(ATTENTION, _attention)


@contextmanager
def _packed_attention(base: nn.Module, half: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    configs: tuple[Any, Any] = (base.config, half.config)  # attention modules look in the first, masks in the second
    before = [config._attn_implementation for config in configs]
    token = _lengths.set(tuple(lengths))
    try:
        for config in configs:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        _lengths.reset(token)
