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
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
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
    found: dict[str, list[tuple[Span, LoRAAdapter | tuple[Tensor, Tensor]]]] = {}
    for (adapters, rows), last in zip(segments, ends, strict=True):
        for path in adapters.frozen:
            found.setdefault(path, []).extend((Span(last - rows, last, 1.0), pair) for pair in adapters.beside(path))
        for path, adapter in adapters.adapters.items():
            assert not (adapter.dropout and adapter.training), "draws of dropout are made for a padded batch"
            found.setdefault(path, []).append((Span(last - rows, last, adapter.scaling), adapter))
    with ExitStack() as stack:
        stack.enter_context(mark_norms(base))
        for path, parts in found.items():
            stack.callback(base.get_submodule(path).register_forward_hook(_adding(parts)).remove)
        yield


def _adding(
    parts: Sequence[tuple[Span, LoRAAdapter | tuple[Tensor, Tensor]]],
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    spans = [span for span, _ in parts]

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factors = [f for _, part in parts for f in (part.factors() if isinstance(part, LoRAAdapter) else part)]
        return add_low_rank(output, args[0], spans, factors)

    return add
