"""Modules of one's own over the tensors of others.

What is attached to a module for a pass, as adapters are, acts on whoever calls it: threads that compute at one time
need a base each.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain

from torch import nn

from atlas_cli.models.frozen.kernel_order import share_packs
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.row_embedding import RowEmbedding


def with_own_modules(base: FrozenBase) -> FrozenBase:
    """A base with other module objects and configs, and the same tensors, those in the kernels' order included.

    The output embedding and rows of an embedding, which nothing is attached to, stay the same modules. Nothing may be
    attached to ``base`` meanwhile.
    """
    made = own_modules(base.model)
    share_packs(base.model, made)
    return replace(base, model=made)


def own_modules(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, with its tensors."""
    rows = (module for module in model.modules() if isinstance(module, RowEmbedding))  # which count what they read
    same = {id(each): each for each in chain(model.parameters(), model.buffers(), rows)}
    return copy.deepcopy(model, same)  # which takes what it is told of as copied already
