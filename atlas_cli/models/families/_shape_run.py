"""One forward of a model without weights, on the meta device: which modules run, in which order, and what they read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

_TOKENS = 5


@dataclass(frozen=True)
class Call:
    """A module that ran: its path, and what it read and gave.

    Attributes:
        by_name: whether it was given ``inputs_embeds`` by name, as the whole input side of an encoder is.
    """

    path: str
    module: nn.Module
    read: tuple[Tensor, ...]
    gave: tuple[Tensor, ...]
    by_name: bool


@dataclass
class ShapeRun:
    """What ran, in the order in which it ended.

    Attributes:
        source: where the gradient of what the model was fed ends.
        entered: what the first block read; ``left``: what the last one gave; ``output``: the last hidden state.
        before, after: modules that ran before the first block and after the last, the outermost that hold no block.
        inside: linear layers of the first block.
        keeps_last: whether the backward of the first block needs anything that is computed after its last linear layer.
    """

    source: Any
    entered: Tensor | None = None
    left: Tensor | None = None
    output: Tensor | None = None
    before: list[Call] = field(default_factory=list)
    after: list[Call] = field(default_factory=list)
    inside: list[Call] = field(default_factory=list)
    keeps_last: bool = False
    _in_first: bool = False

    def reads_hidden(self, call: Call) -> bool:
        """Whether a module read what follows from what the model was fed."""
        return any(self.source in above(tensor) for tensor in call.read)


def is_causal(model_type: str) -> bool | None:
    """Whether transformers has it as a language model from left to right; None: it has no such model at all."""
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return True
    return False if model_type in MODEL_MAPPING_NAMES else None


def base_on_meta(config: PreTrainedConfig, causal: bool) -> Any:
    """The base model, in evaluation mode, without storage; by implementations that look at no values."""
    auto = AutoModelForCausalLM if causal else AutoModel
    with torch.device("meta"), no_init_weights():
        whole: Any = auto.from_config(copy.deepcopy(config), attn_implementation="eager")
    whole.tie_weights()  # which is left out with the values
    if whole._can_set_experts_implementation():
        whole.set_experts_implementation("batched_mm")
    whole.requires_grad_(False).eval()
    return whole.base_model if causal else whole


def run_on_meta(base: Any, blocks: str) -> ShapeRun:
    """Feed ``base`` with embeddings, and look at what runs. Errors are those of transformers' own forward."""
    for path, parameter in base.named_parameters():
        parameter.requires_grad_(not path.startswith(f"{blocks}."))
    options: dict[str, Any] = {"use_cache": False} if hasattr(base.config, "use_cache") else {}
    # transformers looks into no mask of fake tensors
    with FakeTensorMode(allow_non_fake_inputs=True):
        leaf = torch.empty(1, _TOKENS, int(base.config.hidden_size), device="meta", requires_grad=True)
        mask = torch.ones(1, _TOKENS, dtype=torch.int64, device="meta")
        return _run(base, blocks, {"inputs_embeds": leaf * 1, "attention_mask": mask, **options})


def _run(base: Any, blocks: str, inputs: dict[str, Any]) -> ShapeRun:
    found = ShapeRun(inputs["inputs_embeds"].grad_fn)
    listed = base.get_submodule(blocks)
    holders = {id(base), *(id(base.get_submodule(p)) for p in _parents(blocks))}
    handles = [
        module.register_forward_hook(_outside(found, path), with_kwargs=True)
        for path, module in base.named_modules()
        if id(module) not in holders and not f"{path}.".startswith(f"{blocks}.") and _outermost(base, path, holders)
    ]
    handles += [
        module.register_forward_hook(_inside(found, path), with_kwargs=True)
        for path, module in listed[0].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    handles.append(listed[0].register_forward_pre_hook(_enters(found), with_kwargs=True))
    handles.append(listed[0].register_forward_hook(_leaves_first(found)))
    handles.append(listed[-1].register_forward_hook(_leaves(found)))
    try:
        with torch.autograd.graph.saved_tensors_hooks(_keeping(found), lambda tensor: tensor):
            found.output = base(**inputs).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    return found


def above(tensor: Tensor) -> set[Any]:
    """All that a tensor's gradient goes through."""
    found: set[Any] = set()
    todo = [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [following for following, _ in node.next_functions]
    return found


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _outermost(base: nn.Module, path: str, holders: set[int]) -> bool:
    """Whether nothing but what holds the blocks holds this module."""
    return all(id(base.get_submodule(parent)) in holders for parent in _parents(path))


def _tensors(*values: Any) -> tuple[Tensor, ...]:
    return tuple(leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _outside(found: ShapeRun, path: str) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = Call(path, module, _tensors(args, kwargs), _tensors(output), "inputs_embeds" in kwargs)
        if found.entered is None:
            found.before.append(call)
        elif found.left is not None:
            found.after.append(call)

    return hook


def _inside(found: ShapeRun, path: str) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if all(call.module is not module for call in found.inside):  # some blocks use a layer twice
            found.inside.append(Call(path, module, _tensors(args, kwargs), _tensors(output), False))
        found.keeps_last = False

    return hook


def _enters(found: ShapeRun) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.entered = next(t for t in _tensors(args, kwargs) if found.source in above(t))
        found._in_first = True

    return hook


def _leaves_first(found: ShapeRun) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found._in_first = False

    return hook


def _leaves(found: ShapeRun) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found.left = _tensors(output)[0]

    return hook


def _keeping(found: ShapeRun) -> Any:
    def keep(tensor: Tensor) -> Tensor:
        found.keeps_last |= found._in_first
        return tensor

    return keep
