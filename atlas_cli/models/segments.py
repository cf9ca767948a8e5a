"""Adapters of several clients in one pass: each is applied to its own rows of a packed row of tokens.

The frozen layer computes all rows in one matrix product; what each client's adapter adds, and its gradients, are
matrix products of that client's rows alone, so they do not depend on who else is in the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.models.lora import AdapterSet


class Segment(NamedTuple):
    """So many neighbouring rows that one set of adapters is applied to."""

    adapters: AdapterSet
    rows: int


class _Span(NamedTuple):
    first: int
    last: int
    scale: float


@contextmanager
def attached_segments(base: nn.Module, segments: Sequence[Segment]) -> Iterator[None]:
    """Inside the block, layers of ``base`` add the output of each segment's adapter to its rows of (1, N, d_in).

    Adapters may lie on other layers in each segment, and have other ranks; dropout on their input is not supported.
    """
    ends = torch.tensor([s.rows for s in segments]).cumsum(0).tolist()
    found: dict[str, list[tuple[_Span, Tensor, Tensor]]] = {}
    for (adapters, rows), last in zip(segments, ends, strict=True):
        for path, pieces in adapters.frozen.items():
            found.setdefault(path, []).extend((_Span(last - rows, last, 1.0), A, B) for A, B in pieces)
        for path, adapter in adapters.adapters.items():
            assert not (adapter.dropout and adapter.training), "draws of dropout are made for a padded batch"
            span = _Span(last - rows, last, adapter.scaling)
            found.setdefault(path, []).append((span, adapter.lora_A, adapter.lora_B))
    with ExitStack() as stack:
        for path, parts in found.items():
            stack.callback(base.get_submodule(path).register_forward_hook(_adding(parts)).remove)
        yield


def _adding(parts: Sequence[tuple[_Span, Tensor, Tensor]]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    spans = [span for span, _, _ in parts]
    factors = [factor for _, A, B in parts for factor in (A, B)]

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _AddLowRank.apply(output, args[0], spans, *factors)

    return add


class _AddLowRank(torch.autograd.Function):
    """``output + s B A x`` on spans of rows; sums in the dtype of the factors, rounded once."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, spans: Sequence[_Span], *factors: Tensor) -> Tensor:
        x_ND = x.flatten(0, -2).to(factors[0].dtype)
        total = output.flatten(0, -2).to(factors[0].dtype, copy=True)
        downs = []
        for (first, last, scale), A, B in zip(spans, factors[::2], factors[1::2], strict=True):
            downs.append(x_ND[first:last] @ A.t())
            total[first:last].addmm_(downs[-1], B.t(), alpha=scale)
        ctx.spans, ctx.shape, ctx.dtype = spans, x.shape, x.dtype
        ctx.save_for_backward(x_ND, *downs, *factors)
        return total.view_as(output).to(output.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, *saved = ctx.saved_tensors
        downs, factors = saved[: len(ctx.spans)], saved[len(ctx.spans) :]
        g_ND = gradient.flatten(0, -2).to(x_ND.dtype)
        below = torch.zeros_like(x_ND) if ctx.needs_input_grad[1] else None
        found: list[Tensor | None] = []
        for i, (first, last, scale) in enumerate(ctx.spans):
            A, B = factors[2 * i], factors[2 * i + 1]
            g = g_ND[first:last]
            up = (g @ B).mul_(scale)
            if below is not None:
                below[first:last].addmm_(up, A)
            wants_A, wants_B = ctx.needs_input_grad[3 + 2 * i : 5 + 2 * i]
            found.append(up.t() @ x_ND[first:last] if wants_A else None)
            found.append((g.t() @ downs[i]).mul_(scale) if wants_B else None)
        at_x = below.view(ctx.shape).to(ctx.dtype) if below is not None else None
        return gradient, at_x, None, *found
