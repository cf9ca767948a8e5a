"""Splits a frozen base into modules without weights and the weights, to rebuild it in another process.

The weights can then be shared as arrays that several processes of a machine map into their memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.cast import above
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.weight_format import Quantization


class Skeleton(NamedTuple):
    """The modules of a base with tensors on the meta device, and the other fields of ``FrozenBase``."""

    model: nn.Module
    lm_head: nn.Module | None
    family: BaseFamily
    name: str
    init: str
    sha256: str
    fused_gelu: int
    quantization: Quantization
    embedding: Literal["table", "rows"]


def take_apart(base: FrozenBase, layers: int | None = None, output: bool = True) -> tuple[Skeleton, list[Tensor]]:
    """Split a base into its modules and its tensors, each once.

    Args:
        layers: only what clients need that are cut there or below: the input side and the blocks under this one.
        output: whether an output embedding comes along that is not the input embedding.
    """
    memo: dict[int, object] = {}
    for module in [] if layers is None else above(base, layers):
        memo[id(module)] = nn.Identity()
    lm_head = base.lm_head if output else None
    kept = list(_distinct(base.model, lm_head, memo))
    for tensor in kept:
        hollow = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(hollow, requires_grad=False) if isinstance(tensor, nn.Parameter) else hollow
    model, head = copy.deepcopy((base.model, lm_head), memo)
    facts = base.family, base.name, base.init, base.sha256, base.fused_gelu, base.quantization, base.embedding
    return Skeleton(model, head, *facts), kept


def put_together(skeleton: Skeleton, tensors: Sequence[Tensor]) -> FrozenBase:
    """Rebuild the base on these tensors; ``sha256`` is that of the whole base it came from."""
    hollow = list(_distinct(skeleton.model, skeleton.lm_head, {}))
    filled = {
        id(empty): nn.Parameter(tensor, requires_grad=False) if isinstance(empty, nn.Parameter) else tensor
        for empty, tensor in zip(hollow, tensors, strict=True)
    }  # one object for each, so that what was tied stays tied
    for root in (skeleton.model, skeleton.lm_head):
        for module in root.modules() if root is not None else ():
            for name, value in module._parameters.items():
                if value is not None and id(value) in filled:
                    module._parameters[name] = cast(nn.Parameter, filled[id(value)])
            for holder in (module._buffers, vars(module)):
                for name, value in list(holder.items()):
                    if isinstance(value, Tensor) and id(value) in filled:
                        holder[name] = filled[id(value)]
    return FrozenBase(**skeleton._asdict())


def contents_sha256(tensors: Sequence[Tensor]) -> str:
    """Hash of the tensors, to compare those in another process with those that it was sent."""
    return sha256_tensors({str(i): tensor for i, tensor in enumerate(tensors)})


def weights_of(base: FrozenBase) -> list[Tensor]:
    """The tensors of a rebuilt base, in the order in which it got them."""
    return list(_distinct(base.model, base.lm_head, {}))


def _distinct(model: nn.Module, lm_head: nn.Module | None, without: dict[int, object]) -> Iterator[Tensor]:
    """Parameters and buffers, tied ones once, module by module."""
    seen: set[int] = set()
    todo = [root for root in (model, lm_head) if root is not None]
    while todo:
        module = todo.pop(0)
        if id(module) in without:
            continue
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
        todo += [child for child in module._modules.values() if child is not None]
