"""Only real tokens: the sequences of a batch one after another in one row, each attending to itself alone.

Linear layers, norms and activation functions see (1, N, D), N the number of real tokens, and compute nothing for
padding. Attention of short sequences on a CPU is computed in groups of near lengths (``short_sequences``). Else it is
called once for every run of neighbouring sequences of equal length, on views of the row: there it needs no mask, and
pads nothing either. Positions count from the start of each sequence. Blocks are Hugging Face's own,
which look their attention function up by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from atlas_cli.models.halves.attention_scope import is_causal, seen
from atlas_cli.models.halves.short_sequences import attend_in_groups, serves
from atlas_cli.models.halves.split import run_half

ATTENTION = "atlas_packed"  # transformers makes no mask for an attention function that has none of its own


@dataclass(frozen=True)
class Packing:
    """The places of a batch's real tokens.

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
        """The packing of a batch that is padded on the right, as by ``collate``; the mask is 1 for real tokens."""
        lengths = mask_BT.sum(1)
        in_row_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device).expand_as(mask_BT)
        places_N = (in_row_BT < lengths[:, None]).flatten().nonzero().squeeze(1)
        positions_N = in_row_BT.flatten()[places_N]
        return cls(tuple(lengths.tolist()), (mask_BT.shape[0], mask_BT.shape[1]), places_N, positions_N)

    @property
    def tokens(self) -> int:
        """The number N of real tokens."""
        return sum(self.lengths)

    def pack(self, padded: Tensor) -> Tensor:
        """Pack (B, T, ...) to (N, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def unpack(self, rows: Tensor) -> Tensor:
        """Unpack (N, ...) to (B, T, ...), with 0 for padding."""
        padded = rows.new_zeros(self.shape[0] * self.shape[1], *rows.shape[1:])
        return padded.index_copy(0, self.places, rows).unflatten(0, self.shape)


def run_packed(half: nn.Module, lengths: Sequence[int], positions: Tensor, **rows: Tensor) -> Tensor:
    """Hidden states (N, D) of a half, or of a whole base.

    Args:
        lengths: tokens of each sequence of the row.
        positions: (N,) position of each token as the model numbers them, see ``positions_of``.
        rows: ``input_ids`` (N,), with ``token_type_ids`` (N,) where there are some, or ``inputs_embeds`` (N, D).
    """
    with attending(half, partial(_each_to_itself, lengths)):
        return run_row(half, positions, **rows)


def run_row(half: nn.Module, positions: Tensor, **rows: Tensor) -> Tensor:
    """The outputs (N, D) of ``half`` for one row, with the current attention function."""
    inputs = {name: tensor.unsqueeze(0) for name, tensor in rows.items()}
    return run_half(half, None, position_ids=positions.unsqueeze(0), **inputs)[0]


def worth(places: int, tokens: int) -> bool:
    """Whether a batch has so much padding that one row is faster although attention is called more often."""
    return places > 1.05 * tokens


def run_real_tokens(half: nn.Module, mask_BT: Tensor, inputs_BTD: Tensor) -> Tensor:
    """Hidden states (B, T, D) of an upper half; as a row, and 0 for padding, where there is enough padding to save."""
    packing = Packing.of(mask_BT)
    if not worth(mask_BT.numel(), packing.tokens):
        return run_half(half, mask_BT, inputs_embeds=inputs_BTD)
    rows_ND = packing.pack(inputs_BTD)
    return packing.unpack(run_packed(half, packing.lengths, packing.positions, inputs_embeds=rows_ND))


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


def _each_to_itself(
    lengths: Sequence[int], module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
) -> Tensor:
    """Attention within each sequence; of longer ones, with one call for every run of neighbours of equal length."""
    if serves(lengths, query, options):
        return attend_in_groups(lengths, module, query, key, value, **options)
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    outputs = []
    for (length, count), *parts in zip(runs, *(t.split(sizes, 2) for t in (query, key, value)), strict=True):
        q, k, v = (of_sequences(part, count) for part in parts)
        window = options.get("sliding_window")
        cut_off = window is not None and length > window
        mask = seen(is_causal(module), range(length), length, window, query.device) if cut_off else None
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **options)[0].flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0)


def of_sequences(part: Tensor, count: int) -> Tensor:
    """A stretch (1, H, count * L, D_head) of a row as (count, H, L, D_head), without a copy."""
    return part[0].unflatten(1, (count, -1)).transpose(0, 1)


Attend = Callable[..., Tensor]
_configs: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()  # of the modules of a half
_attend: ContextVar[Attend] = ContextVar("what attention of the row that is computed does")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Queries, keys and values (1, H, N, D_head) to (1, N, H, D_head)."""
    return _attend.get()(module, query, key, value, **options), None


@contextmanager
def attending(half: nn.Module, attend: Attend) -> Iterator[None]:
    """Inside the block, attention in ``half`` is ``attend(module, query, key, value, **options)``."""
    from transformers import AttentionInterface  # brings every model's losses in, which planning has no use for

    AttentionInterface.register(ATTENTION, _attention)
    if half not in _configs:
        # attention looks its function up in the config of its own module, and masks are made by that of the half
        found = {id(module.config): module.config for module in half.modules() if hasattr(module, "config")}
        _configs[half] = list(found.values())
    configs = _configs[half]
    before = [config._attn_implementation for config in configs]
    token = _attend.set(attend)
    try:
        for config in configs:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        _attend.reset(token)
