"""Outputs of norms that the backward makes anew instead of keeping them.

What adapts the layer above a norm needs the norm's output for the gradient of A, and the norm needs its own input for
its backward: of the two the input is enough. A norm costs a hundredth of a block, and gives the same bits again.
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


class Made(NamedTuple):
    """How a tensor came about: ``norm(source)``."""

    norm: nn.Module
    source: Tensor


@contextmanager
def norms_marked(base: nn.Module) -> Iterator[None]:
    """Inside the block, norms of ``base`` mark what they make where autograd keeps their input."""
    if base not in _norms:
        norms = (m for m in base.modules() if isinstance(m, nn.LayerNorm) or type(m).__name__.endswith("RMSNorm"))
        _norms[base] = list(norms)
    with ExitStack() as stack:
        for norm in _norms[base]:
            stack.callback(norm.register_forward_hook(_mark).remove)
        yield


def made_by(x: Tensor) -> Made | None:
    """The norm that made a tensor, where that is known."""
    found: Made | None = getattr(x, _MARK, None)
    return found


def forget(x: Tensor) -> Tensor:
    """The same tensor, which somebody holds: with its mark it would hold what the norm was given, too."""
    x.__dict__.pop(_MARK, None)
    return x


@torch.no_grad()
def again(norm: nn.Module | None, kept: Tensor) -> Tensor:
    """The tensor that was not kept: ``norm(kept)``, or what was kept where there was no norm."""
    return kept if norm is None else norm(kept)


def _mark(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    if output.requires_grad and not torch.compiler.is_compiling():
        setattr(output, _MARK, Made(norm, args[0]))
