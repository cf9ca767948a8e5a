"""Runs the last block only for the tokens that a head reads: their queries, output projection and feed-forward.

The others are there to be attended to: the block runs over the whole row as far as its attention, which gives keys and
values, and then over the tokens that are read, whose attention takes those. No other block can be cut short so, because
each token of its output is attended to above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from atlas_cli.models.halves.attention_scope import is_causal, seen
from atlas_cli.models.halves.real_tokens import attending, of_sequences, run_row


class _Attended(Exception):
    """Raised to end the first run of the block at its attention."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value


def run_last_block(
    block: nn.Module,
    lengths: Sequence[int],
    positions: Tensor,
    read: Tensor,
    rows: Tensor,
    attached: Callable[[bool], AbstractContextManager[None]],
) -> Tensor:
    """The outputs (S, D) of the last block and the final norm for the tokens that are read.

    Args:
        block: the upper half that has the last block alone.
        lengths, positions: of the row, as for ``run_packed``.
        read: (S,) int64, ascending places in the row.
        rows: (N, D), outputs of the block before.
        attached: adapters for the row (False) and for the tokens that are read (True).
    """
    attended: _Attended | None = None
    try:
        with attached(False), attending(block, _stop):
            run_row(block, positions, inputs_embeds=rows)
    except _Attended as reached:
        attended = reached
    assert attended is not None, "the last block has attention"
    places = [positions_in.tolist() for positions_in in _by_sequence(lengths, read)]
    with attached(True), attending(block, partial(_to_all, lengths, places, attended.key, attended.value)):
        return run_row(block, positions[read], inputs_embeds=rows.index_select(0, read))


def _stop(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    raise _Attended(key, value)


def _by_sequence(lengths: Sequence[int], read: Tensor) -> list[Tensor]:
    """The positions to read in each sequence, counted from its own start."""
    ends = torch.tensor(lengths, device=read.device).cumsum(0)
    whose = torch.bucketize(read, ends, right=True)
    starts = ends - torch.tensor(lengths, device=read.device)
    counts = torch.bincount(whose, minlength=len(lengths)).tolist()
    return list((read - starts[whose]).split(counts))


def _to_all(
    lengths: Sequence[int],
    places: Sequence[list[int]],
    key: Tensor,
    value: Tensor,
    module: nn.Module,
    query: Tensor,
    _key: Tensor,
    _value: Tensor,
    **options: Any,
) -> Tensor:
    """Attention of the tokens that are read, (1, H, S, D_head), to all of their sequence; (1, S, H, D_head)."""
    runs = [(*run, len(list(same))) for run, same in groupby(zip(lengths, places, strict=True))]
    queries = query.split([len(read) * count for _, read, count in runs], 2)
    keys, values = (t.split([length * count for length, _, count in runs], 2) for t in (key, value))
    window = options.get("sliding_window")
    outputs = []
    for (length, read, count), *parts in zip(runs, queries, keys, values, strict=True):
        if read:
            q, k, v = (of_sequences(part, count) for part in parts)
            sees_all = (window is None or length <= window) and (read == [length - 1] or not is_causal(module))
            mask = None if sees_all else seen(is_causal(module), read, length, window, query.device)
            found, _ = sdpa_attention_forward(module, q, k, v, mask, **{**options, "is_causal": False})
            outputs.append(found.flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0)
