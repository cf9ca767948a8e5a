"""Memory of a training step by running the model's own modules on tensors without storage.

PyTorch's fake tensors have shapes, types and sizes but no data, so a step of a large model takes a fraction of a
second; the bytes that autograd saves come out as they do in training, and so does what is alive at the same time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from atlas_cli.models.adapters.lora import AdapterSet, features_of
from atlas_cli.models.bottleneck import bottleneck_of, mean_divergence
from atlas_cli.models.cut_parts import NO_PARTS
from atlas_cli.models.denoiser import AtTheCut, denoised
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.gelu import fuse_gelu
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.halves.checkpointing import checkpointed
from atlas_cli.models.halves.split import client_half, run_half, server_half
from atlas_cli.planning.memory.step import Step
from atlas_cli.tasks.contract import BaseTask


@dataclass(frozen=True)
class StepTrace:
    """The bytes that a step saves for backward, and the most alive at once besides weights and adapters.

    ``gradients`` is for everything that it trains; ``peak`` includes those that exist when most is alive. ``forward``
    is the most alive until the blocks have their outputs.
    """

    saved: int
    peak: int
    gradients: int = 0
    forward: int = 0


def saved_by_all(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
    ranks: Mapping[str, int],
    step: Step,
    *,
    train_weights: bool = False,
) -> int:
    """The bytes that a forward of the whole base saves for backward; kept, since the runs of a sweep ask for the same.

    Arguments are those of ``trace``.
    """
    config = hf_config.to_json_string(use_diff=False)
    return _saved_by_all(_Whole(family, config, tuple(ranks.items()), step, train_weights, hf_config))


@dataclass(frozen=True)
class _Whole:
    """What decides the bytes that a forward of a whole base saves; ``config`` is ``hf_config`` as text."""

    family: BaseFamily
    config: str
    ranks: tuple[tuple[str, int], ...]
    step: Step
    train_weights: bool
    hf_config: PreTrainedConfig = field(compare=False)


@lru_cache(maxsize=64)
def _saved_by_all(model: _Whole) -> int:
    layers = range(int(model.hf_config.num_hidden_layers))
    return trace(
        model.family,
        model.hf_config,
        layers,
        dict(model.ranks),
        model.step,
        whole=True,
        train_weights=model.train_weights,
        backward=False,
    ).saved


def trace(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
    layers: range,
    ranks: Mapping[str, int],
    step: Step,
    *,
    whole: bool = False,
    task: BaseTask | None = None,
    train_weights: bool = False,
    backward: bool = True,
) -> StepTrace:
    """Trace one step of blocks ``layers``.

    Args:
        layers: from 0, a client half that reads tokens; else a server half that reads activations.
        ranks: the ranks of adapters by path in the base.
        whole: whether to trace the base with input side and final norm instead of a half.
        task: the task whose head and loss run on the output; behind a client half (``labels: client``) they get the
            output as a server returns it, while the half's graph is alive.
        train_weights: whether to fine-tune fully.
        backward: whether to trace it as well; nothing more is saved in it.
    """
    base, lm_head = meta_model(hf_config, family, getattr(torch, step.dtype), step.quantization)
    if step.fused_gelu:
        fuse_gelu(base)
    with FakeTensorMode(), ExitStack() as stack:
        _give_storage([base, *([lm_head] if lm_head is not None else [])])
        base.requires_grad_(train_weights)
        adapters = AdapterSet(
            {
                path: step.form.blank(*features_of(base.get_submodule(path)), rank, step.dropout)
                for path, rank in ranks.items()
            }
        ).train()
        adapters.train_only(step.trained)
        upper = layers.start > 0
        half = base if whole else (server_half if upper else client_half)(base, family, _cut(layers))
        head = task.build_head(int(hf_config.hidden_size), lm_head) if task is not None else None
        if head is not None:
            step.parts.add_to(head, int(hf_config.hidden_size))
        held = [base, *([head] if head is not None else []), *([lm_head] if lm_head is not None else [])]
        weights = [t for module in held for t in (*module.parameters(), *module.buffers())]
        weights += [*adapters.parameters(), *adapters.held_frozen()]
        stack.enter_context(adapters.attached(base))
        stack.enter_context(_masks_without_values(step.padded))
        trained = [
            p for p in (*adapters.parameters(), *(head.parameters() if head is not None else ())) if p.requires_grad
        ]
        live = stack.enter_context(_Fake(weights))
        saved = _Saved(weights)
        mask = torch.ones(step.batch, step.tokens, dtype=torch.int64)
        # what a batch and its message hold besides; a client keeps the mask of the batch before until the next is sent
        besides = [mask.bool(), mask.clone()]
        inputs = _inputs(hf_config, step, upper)
        loss: Tensor | None = None
        term: Tensor | None = None
        received: Tensor | None = None
        hidden: Tensor | None
        with saved.counting(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=step.autocast):
            with checkpointed(half, family, ranks) if step.checkpointing else nullcontext():
                hidden = run_half(half, mask, **inputs)
            own = hidden
            if head is not None and step.parts.bottleneck is not None:
                hidden, divergence = bottleneck_of(head)(hidden, torch.randn(hidden.shape))
                term = mean_divergence(divergence, mask)
                del divergence
            clean: Tensor | None = None
            if step.parts.denoiser is not None:
                real = mask.unsqueeze(-1).to(hidden.dtype)
                hidden, sent = hidden * real, hidden  # as noise is added to
                clean = hidden.detach() if own is sent else own.detach() * real
                del sent, real
            del own
            forward = live.peak
            if task is not None and head is not None:
                returned, other = getattr(torch, step.received), step.parts != NO_PARTS
                received = hidden if upper or whole else hidden.detach().to(returned, copy=other).requires_grad_()
                cut = AtTheCut(torch.randn(received.shape), clean) if clean is not None else None
                loss = traced_loss(task, head(denoised(head, received, cut), mask), step.batch, step.tokens)
                del cut, clean
        if not backward:
            return StepTrace(saved.total, live.peak, forward=forward)
        if loss is not None and upper:
            received = hidden = None  # a server's backward begins when they are gone
        if loss is not None and loss.requires_grad:  # a server that trains nothing may have no backward
            loss.backward()
        if hidden is not None and received is not hidden and hidden.requires_grad:
            del received
            gradient = torch.empty_like(hidden)
            gradient.sum()  # as ``federation.parties.numerics`` looks at what is sent
            if term is None:
                hidden.backward(gradient)
            else:
                torch.autograd.backward([hidden, term], [gradient, None])
        del besides, inputs
        return StepTrace(saved.total, live.peak, sum(p.nbytes for p in trained), forward)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations create, while they are alive; ``held`` exist before.

    Attributes:
        now: bytes alive; ``peak``: the most so far.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held = [t.untyped_storage() for t in held]
        self._known = {id(storage) for storage in self._held}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in self._known:
                    self._known.add(id(storage))
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _Fake(LiveBytes):
    """With products of experts, each row by the matrix of its expert; torch's own fake of it takes bfloat16 alone."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return super().__torch_dispatch__(_grouped if func is _GROUPED else func, types, args, kwargs)


_GROUPED = torch.ops.aten._grouped_mm.default


def _grouped(rows: Tensor, matrices: Tensor, *_: Any, **__: Any) -> Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[-1])


def _cut(layers: range) -> int:
    return layers.start or layers.stop


def _inputs(hf_config: PreTrainedConfig, step: Step, upper: bool) -> dict[str, Tensor | None]:
    if not upper:
        return {"input_ids": torch.zeros(step.batch, step.tokens, dtype=torch.int64)}
    size = step.batch, step.tokens, int(hf_config.hidden_size)
    return {"inputs_embeds": torch.empty(size, dtype=getattr(torch, step.dtype), requires_grad=step.answered)}


def traced_loss(task: BaseTask, logits: Tensor, batch: int, tokens: int) -> Tensor:
    """The cross-entropy that tasks with class numbers share: they count labels by value, and fake tensors have none."""
    if task.label_dtype.is_floating_point:
        labels = task.blank_labels(batch, tokens)
        if (targets := task.targets(labels)) is None:
            return task.loss(logits, labels)[0]
        return task.loss_at(logits.flatten(0, targets.dim() - 1), targets.flatten())[0]
    rows = logits.flatten(0, -2).float()
    targets = torch.zeros(len(rows), dtype=torch.int64)
    return functional.cross_entropy(rows, targets, ignore_index=-100, reduction="sum") / len(rows)


def _give_storage(modules: Iterable[nn.Module]) -> None:
    """Turn meta tensors into fake CPU tensors; tied tensors stay one."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            new = torch.empty(tensor.shape, dtype=tensor.dtype)
            made[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
        return made[id(tensor)]

    for module in (m for root in modules for m in root.modules()):
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(t) for name, t in tensors.items() if t is not None})  # type: ignore[misc]


class _Saved:
    """As ``measured_memory.saved_bytes`` of parties, which tells storages by an address; fake tensors have none."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.total = 0
        self._seen = {id(s): s for s in (w.untyped_storage() for w in weights)}

    @contextmanager
    def counting(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield
        self._seen.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._seen:
            self._seen[id(storage)] = storage  # kept, so that no other storage takes its id
            self.total += storage.nbytes()
        return tensor


@contextmanager
def _masks_without_values(padded: bool) -> Iterator[None]:
    """Decide by ``padded`` whether a mask is needed; transformers would look for a zero in it."""
    make = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]

    def mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        if not padded and make(*args, attention_mask=None, **kwargs) is None:
            return None
        made: Tensor | None = make(*args, attention_mask=attention_mask, **kwargs)
        return made

    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
