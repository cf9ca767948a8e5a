"""Attention within each of the short sequences of a row on a CPU: sequences of near lengths share matrix products.

torch's fused kernel for CPUs works through one head of one sequence after another, in blocks that are made for
hundreds of tokens: at 24 tokens most of its time is spent around the products. Here sequences of near lengths are
gathered into one padded batch, whose heads are the matrices of one batched product, forward and backward (Dao et al.
2022, arXiv:2205.14135, appendix B.2, without its tiles, which short sequences do not need). The weights of attention
are kept for the backward, which is why long sequences stay with the fused kernel.

Shapes: N tokens of the row; S sequences of a group, padded to T tokens, its longest or few more; H heads of queries
and K of keys and values, each serving R = H / K; D numbers a head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from atlas_cli.models.halves.attention_scope import is_causal, seen

LONGEST = 128  # tokens; the fused kernel is as fast from there on, and keeps no weights
REGISTER = 16  # numbers of float32
GROUP_COST, SCORE_COST = 24.0, 1 / 128  # in units of the time that a padded token takes by itself, see ``cost``


def cost(length: int, sequences: int) -> float:
    """What a group costs: its calls, its padded tokens, and the scores of each of them.

    The unit is the time that a padded token takes beside its scores (its gathering, scattering, and share of the
    products). Fitted to forward and backward of groups of 1 to 32 sequences of 6 to 128 tokens, on one thread of an
    x86-64 CPU in float32, a group costs 34 and 16 of them, and a score 1/123 and 1/137, at 12 heads of 32 and of 64:
    the constants lie between. They are fixed, so that groups, and with them the rounding of results, depend on
    lengths alone.
    """
    width = padded_to(length)
    return GROUP_COST + sequences * width * (1 + width * SCORE_COST)


def padded_to(length: int) -> int:
    """The tokens T that a group is padded to whose longest sequence has so many.

    Registers of a CPU hold up to 16 numbers: softmax takes three to eleven times as long over 8 to 15 scores as
    over 16, and products of T rows and columns are slow where T is just below a multiple of 16, or of 4.
    """
    length = max(length, REGISTER)
    over = length % REGISTER
    if over > REGISTER - 4:
        return length + REGISTER - over
    return length + (over % 4 == 3)


def groups_of(lengths: Sequence[int]) -> list[list[int]]:
    """The numbers of the sequences that share a group, shortest first: the groups of least total ``cost``.

    Sequences in order of length are cut into runs, and a run is padded to its longest, or few tokens more. The best
    cuts are found by dynamic programming over the different lengths; sequences of one length are never parted.
    """
    counted = sorted(Counter(lengths).items())
    least, first = [0.0], [0]
    for end in range(1, len(counted) + 1):
        longest, sequences, found = counted[end - 1][0], 0, []
        for start in range(end - 1, -1, -1):
            sequences += counted[start][1]
            found.append((least[start] + cost(longest, sequences), start))
        best, start = min(found)
        least.append(best)
        first.append(start)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups, end, left = [], len(counted), len(order)
    while end:
        size = sum(count for _, count in counted[first[end] : end])
        groups.append(order[left - size : left])
        end, left = first[end], left - size
    return groups[::-1]


def serves(lengths: Sequence[int], query: Tensor, options: dict[str, Any]) -> bool:
    """Whether attention of these sequences is computed here: on a CPU, in float32 or float64, without options that
    only the fused kernel has."""
    plain = not options.get("dropout") and options.get("position_bias") is None and options.get("softcap") is None
    exact = query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64)
    return plain and exact and min(lengths) > 0 and max(lengths) <= LONGEST


def attend_in_groups(
    lengths: Sequence[int], module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
) -> Tensor:
    """Attention within each sequence: queries (1, H, N, D), keys and values (1, K, N, D), to (1, N, H, D).

    The result can be differentiated once.
    """
    causal = options.get("is_causal")
    kind = (is_causal(module) if causal is None else causal, options.get("sliding_window"))
    layout = layout_of(tuple(lengths), query.shape[1], key.shape[1], *kind, query.dtype)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    found: Tensor = _Attention.apply(query, key, value, layout, scale)
    return found


class Group(NamedTuple):
    """A group's place among the gathered rows, and its scores' mask.

    ``queries``, ``keys``: its rows; ``batch``: S * K; ``length``: T; ``mask``: 0 or -inf, broadcast to
    (S * K, R * T, T).
    """

    queries: slice
    keys: slice
    batch: int
    length: int
    mask: Tensor


class Layout(NamedTuple):
    """Where the rows of all groups come from, one row a token and head, and where they go back to.

    A place of padding has the row of its sequence's first token: finite, seen by nobody, with gradient 0.

    Attributes:
        queries, keys: for each gathered row, the row of (N * H, D) or (N * K, D) that it copies; keys have those of
            values too. By group, sequence, head and token.
        from_queries, from_keys: for each row of (N * H, D) or (N * K, D), its gathered row.
        padding: gathered rows of queries that are padding.
    """

    groups: list[Group]
    queries: Tensor
    keys: Tensor
    from_queries: Tensor
    from_keys: Tensor
    padding: Tensor


@lru_cache(maxsize=8)  # all layers of a pass have one, and so have the halves of the clients and of the server
def layout_of(
    lengths: tuple[int, ...], heads: int, key_heads: int, causal: bool, window: int | None, dtype: torch.dtype
) -> Layout:
    """The layout of a row of sequences of these lengths."""
    starts, shared = torch.tensor([0, *accumulate(lengths)]), heads // key_heads
    groups: list[Group] = []
    padded: list[tuple[Tensor, Tensor]] = []
    begin = 0  # of the group, in rows of keys
    for members in groups_of(lengths):
        length, batch = padded_to(lengths[members[-1]]), len(members) * key_heads
        in_sequence = torch.arange(length)
        real_ST = in_sequence < torch.tensor([lengths[i] for i in members])[:, None]
        padded.append((starts[members][:, None] + in_sequence * real_ST, real_ST))
        mask, end = _mask(real_ST, causal, window, key_heads, shared, dtype), begin + batch * length
        groups.append(Group(slice(begin * shared, end * shared), slice(begin, end), batch, length, mask))
        begin = end
    queries, from_queries, padding = _gathered(padded, key_heads, shared)
    keys, from_keys, _ = (queries, from_queries, padding) if shared == 1 else _gathered(padded, key_heads, 1)
    return Layout(groups, queries, keys, from_queries, from_keys, padding)


def _gathered(padded: Sequence[tuple[Tensor, Tensor]], key_heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows to gather, the place of each row among them, and the places of padding, of K * ``shared`` heads.

    Args:
        padded: of each group its tokens (S, T), and which of them are real.
    """
    head = torch.arange(key_heads * shared).view(key_heads, shared, 1)
    rows = torch.cat([(tokens[:, None, None] * head.numel() + head).flatten() for tokens, _ in padded])
    real = torch.cat([real[:, None, None].expand(-1, key_heads, shared, -1).flatten() for _, real in padded])
    places = real.nonzero().squeeze(1)
    return rows, torch.empty_like(places).index_copy(0, rows[places], places), (~real).nonzero().squeeze(1)


def _mask(real_ST: Tensor, causal: bool, window: int | None, key_heads: int, shared: int, dtype: torch.dtype) -> Tensor:
    """0 where a token is seen and -inf elsewhere, broadcast to (S * K, R * T, T)."""
    length = real_ST.shape[1]
    sees = torch.ones(1, 1, 1, dtype=torch.bool)
    if causal or (window is not None and length > window):
        sees = seen(causal, range(length), length, window, real_ST.device)[0].repeat(1, shared, 1)
    if not causal and not bool(real_ST.all()):  # of a causal model, padding comes after all that look
        # padding itself looks everywhere: a row of -inf alone would not be a number
        looks = (~real_ST)[:, :, None].repeat(1, shared, 1) if sees.shape[1] > 1 else real_ST.new_zeros(1, 1, 1)
        sees = ((sees & real_ST[:, None]) | looks).repeat_interleave(key_heads, 0)
    return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, float("-inf"))


class _Attention(torch.autograd.Function):
    """Softmax attention of all groups; its gathered rows and weights are kept for the backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        queries, keys, values = (
            _rows(t.transpose(1, 2), places)
            for t, places in ((query, layout.queries), (key, layout.keys), (value, layout.keys))
        )
        outputs, kept = values.new_empty(len(queries), values.shape[-1]), []
        for group in layout.groups:
            q, k, v, out = _matrices(group, queries, keys, values, outputs)
            weights = torch.baddbmm(group.mask, q, k.mT, alpha=scale).softmax(-1)
            torch.bmm(weights, v, out=out)
            kept.append(weights)
        ctx.layout, ctx.scale = layout, scale
        ctx.save_for_backward(queries, keys, values, *kept)
        return outputs.index_select(0, layout.from_queries).view(1, -1, query.shape[1], values.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        queries, keys, values, *kept = ctx.saved_tensors
        at_output = _rows(gradient, layout.queries).index_fill_(0, layout.padding, 0)
        at_query, at_key, at_value = (torch.empty_like(t) for t in (queries, keys, values))
        for group, weights in zip(layout.groups, kept, strict=True):
            q, k, v, g = _matrices(group, queries, keys, values, at_output)
            dq, dk, dv, _ = _matrices(group, at_query, at_key, at_value, at_output)
            torch.bmm(weights.mT, g, out=dv)
            scores = torch._softmax_backward_data(torch.bmm(g, v.mT), weights, -1, weights.dtype).mul_(ctx.scale)
            torch.bmm(scores, k, out=dq)
            torch.bmm(scores.mT, q, out=dk)
        tokens = gradient.shape[1]
        found = (
            rows.index_select(0, places).view(1, tokens, -1, rows.shape[-1]).transpose(1, 2)
            for rows, places in (
                (at_query, layout.from_queries),
                (at_key, layout.from_keys),
                (at_value, layout.from_keys),
            )
        )
        return *found, None, None


def _rows(by_token: Tensor, places: Tensor) -> Tensor:
    """Rows of (1, N, heads, D), one a token and head, at ``places``."""
    return by_token.reshape(-1, by_token.shape[-1]).index_select(0, places)


def _matrices(group: Group, queries: Tensor, keys: Tensor, values: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
    """The part of a group, (S * K, R * T, D) of queries and outputs and (S * K, T, D) of keys and values."""
    parts = (queries[group.queries], keys[group.keys], values[group.keys], outputs[group.queries])
    return tuple(part.view(group.batch, -1, part.shape[-1]) for part in parts)
