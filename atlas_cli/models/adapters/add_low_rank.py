"""``output + s B A x`` as one operation that saves little for its backward.

Products that have the rank as a side are taken with it first, (r, rows) and (r, d_out): BLAS on a CPU needs three to
six times as long for (rows, r) and (d_out, r) where r is 8 or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atlas_cli.models.frozen.kernel_order import Prepacked
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
    return _AddLowRank.apply(output, None, x, norm_of(x), spans, *factors)


def adapted_product(layer: Prepacked, x: Tensor, spans: Sequence[Span], factors: Sequence[Tensor]) -> Tensor:
    """``W x + b + s B A x``, of which the adapters' part is added to the product where that lies.

    Args:
        layer: takes ``x``, which has the dtype of the factors; else as for ``add_low_rank``.
    """
    return _AddLowRank.apply(None, layer, x, norm_of(x), spans, *factors)


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor | None,
        layer: Prepacked | None,
        x: Tensor,
        made: Any,
        spans: Sequence[Span],
        *factors: Tensor,
    ) -> Tensor:
        x_ND = x.flatten(0, -2).to(factors[0].dtype)
        # no view is returned: a block may write to what its layer gives (Falcon adds the attention's output to it)
        if output is None:
            assert layer is not None
            found = layer.times(x, False, layer.bias)
        else:
            found = output.to(factors[0].dtype, copy=True, memory_format=torch.contiguous_format)
        total = found.view(-1, found.shape[-1])
        downs = []  # (r, rows)
        for (first, last, scale), A, B in zip(spans, factors[::2], factors[1::2], strict=True):
            downs.append(A @ x_ND[first:last].t())
            total[first:last].addmm_(downs[-1].t(), B.t(), alpha=scale)
        ctx.layer, ctx.spans, ctx.norm = layer, spans, None if made is None else made.norm
        ctx.shape, ctx.dtype = x.shape, x.dtype
        kept = None if not any(ctx.needs_input_grad[5::2]) else x if made is None else made.source
        ctx.save_for_backward(kept, *downs, *factors)
        return found if output is None else found.to(output.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, *saved = ctx.saved_tensors
        downs, factors = saved[: len(ctx.spans)], saved[len(ctx.spans) :]
        wants_x, wants = ctx.needs_input_grad[2], ctx.needs_input_grad[5:]
        dtype = factors[0].dtype
        x_ND = None if kept is None else recompute(ctx.norm, kept).flatten(0, -2).to(dtype)
        g_ND = gradient.flatten(0, -2).to(dtype)
        below = None
        if wants_x:
            below = g_ND.new_zeros(len(g_ND), factors[0].shape[1]) if ctx.layer is None else ctx.layer.back(g_ND)
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
        return gradient if ctx.layer is None else None, None, at_x, None, None, *found
