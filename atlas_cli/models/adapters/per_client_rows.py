"""Adapters of several clients in one pass: each is applied to its own rows of a packed row of tokens.

The frozen layer computes all rows in one matrix product; what each client's adapter adds, and its gradients, are
matrix products of that client's rows alone, so they do not depend on who else is in the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.models.adapters.add_low_rank import Span, add_low_rank
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.halves.recomputed_norms import mark_norms


class Segment(NamedTuple):
    """A number of neighbouring rows, and the set of adapters that is applied to them."""

    adapters: AdapterSet
    rows: int


@contextmanager
def attached_segments(base: nn.Module, segments: Sequence[Segment]) -> Iterator[None]:
    """Inside the block, layers of ``base`` add the output of each segment's adapter to its rows of (1, N, d_in).

    Segments may differ in adapted layers and ranks; dropout on the adapters' input is not supported.
    """
    ends = torch.tensor([s.rows for s in segments]).cumsum(0).tolist()
    found: dict[str, list[tuple[Span, Tensor, Tensor]]] = {}
    for (adapters, rows), last in zip(segments, ends, strict=True):
        for path, pieces in adapters.frozen.items():
            found.setdefault(path, []).extend((Span(last - rows, last, 1.0), A, B) for A, B in pieces)
        for path, adapter in adapters.adapters.items():
            assert not (adapter.dropout and adapter.training), "draws of dropout are made for a padded batch"
            span = Span(last - rows, last, adapter.scaling)
            found.setdefault(path, []).append((span, adapter.lora_A, adapter.lora_B))
    with ExitStack() as stack:
        stack.enter_context(mark_norms(base))
        for path, parts in found.items():
            stack.callback(base.get_submodule(path).register_forward_hook(_adding(parts)).remove)
        yield


def _adding(parts: Sequence[tuple[Span, Tensor, Tensor]]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    spans = [span for span, _, _ in parts]
    factors = [factor for _, A, B in parts for factor in (A, B)]

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return add_low_rank(output, args[0], spans, factors)

    return add
