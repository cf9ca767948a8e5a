"""``output + s B A x`` as one operation that saves little for its backward.

Products that have the rank as a side are taken with it first, (r, rows) and (r, d_out): BLAS on a CPU needs three to
six times as long for (rows, r) and (d_out, r) where r is 8 or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atlas_cli.models.halves.recomputed_norms import norm_of, recompute


class Span(NamedTuple):
    """Rows ``first .. last-1`` of an input, and the scale of their adapter."""

    first: int
    last: int
    scale: float


def add_low_rank(output: Tensor, x: Tensor, spans: Sequence[Span], factors: Sequence[Tensor]) -> Tensor:
    """``output + s B A x`` on spans of rows; sums in the dtype of the factors, rounded once.

    The backward saves ``x`` itself, or the norm's input if a norm computed it.

    Args:
        output: (..., d_out); x: (..., d_in), of as many rows.
        factors: A (r, d_in) and B (d_out, r) of each span in turn.
    """
    made = norm_of(x)
    return _AddLowRank.apply(output, x, made, spans, *factors)


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, made: Any, spans: Sequence[Span], *factors: Tensor) -> Tensor:
        x_ND = x.flatten(0, -2).to(factors[0].dtype)
        # no view is returned: a block may write to what its layer gives (Falcon adds the attention's output to it)
        found = output.to(factors[0].dtype, copy=True, memory_format=torch.contiguous_format)
        total = found.view(-1, found.shape[-1])
        downs = []  # (r, rows)
        for (first, last, scale), A, B in zip(spans, factors[::2], factors[1::2], strict=True):
            downs.append(A @ x_ND[first:last].t())
            total[first:last].addmm_(downs[-1].t(), B.t(), alpha=scale)
        ctx.spans, ctx.norm, ctx.shape, ctx.dtype = spans, None if made is None else made.norm, x.shape, x.dtype
        kept = None if not any(ctx.needs_input_grad[4::2]) else x if made is None else made.source
        ctx.save_for_backward(kept, *downs, *factors)
        return found.to(output.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, *saved = ctx.saved_tensors
        downs, factors = saved[: len(ctx.spans)], saved[len(ctx.spans) :]
        wants_x, wants = ctx.needs_input_grad[1], ctx.needs_input_grad[4:]
        dtype = factors[0].dtype
        x_ND = None if kept is None else recompute(ctx.norm, kept).flatten(0, -2).to(dtype)
        g_ND = gradient.flatten(0, -2).to(dtype)
        below = g_ND.new_zeros(len(g_ND), factors[0].shape[1]) if wants_x else None
        found: list[Tensor | None] = []
        for i, (first, last, scale) in enumerate(ctx.spans):
            A, B = factors[2 * i], factors[2 * i + 1]
            g = g_ND[first:last]
            at_A = None
            if below is not None or wants[2 * i]:
                up = (B.t() @ g.t()).mul_(scale)  # (r, rows)
                if below is not None:
                    below[first:last].addmm_(up.t(), A)
                at_A = up @ x_ND[first:last] if x_ND is not None and wants[2 * i] else None
            found.append(at_A)
            found.append((downs[i] @ g).mul_(scale).t().contiguous() if wants[2 * i + 1] else None)
        at_x = below.view(ctx.shape).to(ctx.dtype) if below is not None else None
        return gradient, at_x, None, None, *found
