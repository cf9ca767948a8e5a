"""Adapters of several clients in one pass: each is applied to its own rows of a packed row of tokens.

The frozen layer computes all rows in one matrix product; what each client's adapter adds, and its gradients, are
matrix products of that client's rows alone, so they do not depend on who else is in the pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.models.adapters.add_low_rank import Span, adapted_product, add_low_rank
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.frozen.kernel_order import Prepacked
from atlas_cli.models.halves.recomputed_norms import mark_norms

Part = tuple[Span, LoRAAdapter | tuple[Tensor, Tensor]]  # an adapter or a pair A, B, and the rows that it acts on


class Segment(NamedTuple):
    """A number of neighbouring rows, and the set of adapters that is applied to them."""

    adapters: AdapterSet
    rows: int


def parts_of(segments: Sequence[Segment]) -> dict[str, list[Part]]:
    """By the path of a layer, the adapters that act on rows of its input (1, N, d_in).

    Segments may differ in adapted layers and ranks; dropout on the adapters' input is not supported.
    """
    ends = torch.tensor([s.rows for s in segments]).cumsum(0).tolist()
    found: dict[str, list[Part]] = {}
    for (adapters, rows), last in zip(segments, ends, strict=True):
        for path in adapters.frozen:
            found.setdefault(path, []).extend((Span(last - rows, last, 1.0), pair) for pair in adapters.beside(path))
        for path, adapter in adapters.adapters.items():
            assert not (adapter.dropout and adapter.training), "draws of dropout are made for a padded batch"
            found.setdefault(path, []).append((Span(last - rows, last, adapter.scaling), adapter))
    return found


@contextmanager
def attached_parts(base: nn.Module, by_path: Mapping[str, Sequence[Part]]) -> Iterator[None]:
    """Inside the block, layers of ``base`` add the output of each adapter to the rows that it acts on."""
    with ExitStack() as stack:
        stack.enter_context(mark_norms(base))
        for path, parts in by_path.items():
            layer = base.get_submodule(path)
            if isinstance(layer, Prepacked):
                vars(layer)["forward"] = partial(_adapted, parts, layer)
                stack.callback(vars(layer).pop, "forward")
            else:
                stack.callback(layer.register_forward_hook(partial(_add, parts)).remove)
        yield


def _add(parts: Sequence[Part], _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return add_low_rank(output, args[0], *_spans(parts))


def _adapted(parts: Sequence[Part], layer: Prepacked, x: Tensor) -> Tensor:
    """The forward of a layer with its adapters."""
    spans, factors = _spans(parts)
    if layer.takes(x) and factors[0].dtype == x.dtype:
        return adapted_product(layer, x, spans, factors)
    return add_low_rank(type(layer).forward(layer, x), x, spans, factors)


def attached_segments(base: nn.Module, segments: Sequence[Segment]) -> AbstractContextManager[None]:
    """Inside the block, layers of ``base`` add the output of each segment's adapter to its rows of (1, N, d_in)."""
    return attached_parts(base, parts_of(segments))


def _spans(parts: Sequence[Part]) -> tuple[list[Span], list[Tensor]]:
    return [span for span, _ in parts], [factor for _, part in parts for factor in factors_of(part)]


def factors_of(part: LoRAAdapter | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A (r, d_in) and B (d_out, r) of an adapter or a pair."""
    return part.factors() if isinstance(part, LoRAAdapter) else part
