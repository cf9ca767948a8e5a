"""Activation checkpointing (Chen et al., 1604.06174): a block keeps its input only and runs again in the backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from atlas_cli.models.block_paths import by_layer
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.halves.recomputed_norms import without_mark
from atlas_cli.models.halves.split import blocks_of


@contextmanager
def checkpointed(half: nn.Module, family: BaseFamily, ranks: Mapping[str, int]) -> Iterator[None]:
    """Inside the block, forwards of ``half`` save the inputs of its blocks and nothing that they compute.

    Args:
        half: a client half or a whole base.
        ranks: of the adapters that are attached, by path; blocks below the lowest of them save nothing anyway.

    Blocks are shared with the base, so they are as before afterwards. The backward, which may come later, runs each
    block again: adapters must be attached then too. Dropout repeats its draws, so gradients are the same numbers.
    """
    with ExitStack() as stack:
        for block in blocks_of(half, family)[min(by_layer(ranks, family), default=0) :]:
            stack.callback(block.__dict__.pop, "forward", None)
            block.__dict__["forward"] = partial(_forward, block.forward)
        yield


def _forward(forward: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, without_mark(hidden), *args, use_reentrant=False, **kwargs)
