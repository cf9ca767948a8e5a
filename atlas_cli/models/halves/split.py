"""Cut a Hugging Face model at a layer without copying a weight.

The client half is the base model with the blocks after the cut removed and the final norm replaced by the identity;
the server half is the base model with the blocks before the cut removed and its input side neutralised, fed through
``inputs_embeds``. Both are views: they run Hugging Face's own forward over modules that they share with the base.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from atlas_cli.models.block_config import of_blocks
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.halves.recomputed_norms import without_mark


def client_half(base: nn.Module, family: BaseFamily, cut: int) -> nn.Module:
    """Blocks ``0 .. cut-1`` with the input side; ``forward(input_ids, attention_mask, ...)``."""
    replaced: dict[str, nn.Module] = {family.blocks: nn.ModuleList(blocks_of(base, family)[:cut])}
    if family.final_norm is not None:
        replaced[family.final_norm] = nn.Identity()
    return with_modules(base, replaced, of_blocks(base.config, range(cut)))


def server_half(base: nn.Module, family: BaseFamily, cut: int) -> nn.Module:
    """Blocks ``cut ..`` with the final norm; ``forward(inputs_embeds=activations, attention_mask=...)``."""
    blocks = blocks_of(base, family)
    replaced: dict[str, nn.Module] = {path: make() for path, make in family.input_side.items()}
    replaced[family.blocks] = nn.ModuleList(list(blocks[cut:]) or [make() for make in family.no_blocks])
    return with_modules(base, replaced, of_blocks(base.config, range(cut, len(blocks))))


def client_part(base: nn.Module, family: BaseFamily, first: int, cut: int) -> nn.Module:
    """Blocks ``first .. cut-1`` of the client half; ``forward(inputs_embeds=outputs of block first-1, ...)``."""
    replaced: dict[str, nn.Module] = {family.blocks: nn.ModuleList(blocks_of(base, family)[first:cut])}
    if family.final_norm is not None:
        replaced[family.final_norm] = nn.Identity()
    return with_modules(server_half(base, family, first), replaced, of_blocks(base.config, range(first, cut)))


def run_half(
    half: nn.Module, attention_mask: Tensor | None, cache: Cache | None = None, **inputs: Tensor | None
) -> Tensor:
    """Hidden states (B, T, D) of a half, or of the whole base.

    Args:
        cache: keys and values of the tokens before these, which those of these are added to; the mask is then of both.
    """
    extra: dict[str, Any] = {name: value for name, value in inputs.items() if value is not None}
    if getattr(half.config, "type_vocab_size", 1) < 2:
        extra.pop("token_type_ids", None)  # this model has no segments, though its tokenizer may tell them apart
    if getattr(half.config, "is_decoder", False) or hasattr(half.config, "use_cache"):
        extra["use_cache"] = cache is not None
    if cache is not None:
        extra["past_key_values"] = cache
    return without_mark(half(attention_mask=attention_mask, **extra).last_hidden_state)


def blocks_of(base: nn.Module, family: BaseFamily) -> nn.ModuleList:
    """The list of blocks of a base model."""
    blocks = base.get_submodule(family.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def with_modules(base: nn.Module, replaced: Mapping[str, nn.Module], config: Any = None) -> nn.Module:
    """A view of a base with other modules at some paths, and with another config where one is given."""
    view = _shallow(base)
    if config is not None:
        view.config = config
    for path, module in replaced.items():
        parent = view
        *parents, leaf = path.split(".")
        for name in parents:
            # one shallow copy a level, so that the base keeps its own children
            child = _shallow(parent._modules[name])
            parent._modules[name] = child
            parent = child
        parent._modules[leaf] = module
    return view


def _shallow(module: nn.Module | None) -> nn.Module:
    assert module is not None
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view
