"""Outputs of norms that the backward recomputes instead of storing them.

The adapter of the layer above a norm needs the norm's output for the gradient of A, and the norm needs its own input
for its backward. The input is enough for both. A norm costs a hundredth of a block, and gives the same bits again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_MARK = "_atlas_made_by"
_norms: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()


class NormOutput(NamedTuple):
    """The mark of a tensor: it is ``norm(source)``."""

    norm: nn.Module
    source: Tensor


@contextmanager
def mark_norms(base: nn.Module) -> Iterator[None]:
    """Inside the block, norms of ``base`` mark their outputs wherever autograd keeps their inputs."""
    if base not in _norms:
        norms = (m for m in base.modules() if isinstance(m, nn.LayerNorm) or type(m).__name__.endswith("RMSNorm"))
        _norms[base] = list(norms)
    with ExitStack() as stack:
        for norm in _norms[base]:
            stack.callback(norm.register_forward_hook(_mark).remove)
        yield


def norm_of(x: Tensor) -> NormOutput | None:
    """The norm that computed a tensor and its input, if the tensor is marked."""
    found: NormOutput | None = getattr(x, _MARK, None)
    return found


def without_mark(x: Tensor) -> Tensor:
    """Drop the mark of a tensor that is kept, so that the input of the norm can be freed."""
    x.__dict__.pop(_MARK, None)
    return x


@torch.no_grad()
def recompute(norm: nn.Module | None, kept: Tensor) -> Tensor:
    """Compute the output of ``norm`` from the input that was kept; without a norm, what was kept is the output."""
    return kept if norm is None else norm(kept)


def _mark(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    if output.requires_grad and not torch.compiler.is_compiling():
        setattr(output, _MARK, NormOutput(norm, args[0]))
