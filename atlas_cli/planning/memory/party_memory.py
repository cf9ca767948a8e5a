"""The bytes that a party keeps while it trains, counted exactly on the meta device without weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import Learns
from atlas_cli.models.cut_parts import NO_PARTS, CutParts
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.memory.embedding_rows import row_embedding_bytes
from atlas_cli.planning.memory.saved_trace import StepTrace
from atlas_cli.planning.memory.step import Step
from atlas_cli.tasks.contract import BaseTask

# numbers that an optimizer keeps for each number that it trains
MOMENTS = {"adamw": 2, "sgd": 0, "sgd-momentum": 1}


@dataclass(frozen=True)
class PartyMemory:
    """The bytes of one party in a training step.

    Attributes:
        heads: heads, and a frozen output embedding that does not belong to the half.
        cut_buffers: the activations at the cut and their gradient.
        transient: everything else that is alive at the peak: temporaries, token ids and masks.
    """

    frozen_weights: int
    adapters: int
    heads: int
    gradients: int
    optimizer: int
    saved_activations: int
    cut_buffers: int
    transient: int

    @property
    def peak(self) -> int:
        """The peak: the sum of all parts.

        For several blocks it is a little more than is alive at once, since gradients appear while saved tensors are
        freed.
        """
        return sum(getattr(self, f.name) for f in fields(self))

    def keeping(self, size: int) -> PartyMemory:
        """The same with so many bytes that are kept from one message to the next, in the cut buffers."""
        return replace(self, cut_buffers=self.cut_buffers + size) if size else self

    def encoding(self, alive: int, not_there: int) -> PartyMemory:
        """The same with so many bytes alive while messages are encoded, when ``not_there`` of the counted parts are
        not."""
        return replace(self, transient=max(self.transient, alive - not_there))

    def encoding_steps(self, alive: int, learns: Learns, gradient: int) -> PartyMemory:
        """The same with so many bytes alive while a client encodes and decodes the messages of a step.

        Args:
            gradient: bytes of that at the cut, which comes back later, as those of what it trains; who has a loss of
                its own sends when its backward is over.
        """
        later = {"backprop": gradient + self.gradients, "auxiliary": self.gradients + self.saved_activations}
        return self.encoding(alive, later.get(learns, 0))


@dataclass(frozen=True)
class StaticMemory:
    """The bytes of a frozen half, of its adapters and heads, and of a frozen output embedding.

    Attributes:
        trained_tensors: the number of trained tensors.
        idle: bytes of adapter parts that are not trained.
    """

    frozen: int
    adapters: int
    head: int
    output: int
    trained_tensors: int
    idle: int = 0

    def training(self, optimizer: str, step: StepTrace, cut_buffers: int, *, cut_traced: bool = True) -> PartyMemory:
        """The memory of a training step.

        Args:
            optimizer: a key of ``MOMENTS``.
            step: the bytes that the step saves and has alive at once, gradients included.
            cut_traced: whether these include the cut buffers.
        """
        gradients = self.adapters + self.head - self.idle
        counted = step.saved + step.gradients + (cut_buffers if cut_traced else 0)
        return PartyMemory(
            frozen_weights=self.frozen,
            adapters=self.adapters,
            heads=self.head + self.output,
            gradients=gradients,
            optimizer=optimizer_bytes(optimizer, gradients, self.trained_tensors),
            saved_activations=step.saved,
            cut_buffers=cut_buffers,
            transient=max(0, step.peak - counted),
        )


def static_memory(
    half: nn.Module,
    lm_head: nn.Module | None,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    task: BaseTask | None,
    hidden_size: int,
    step: Step,
) -> StaticMemory:
    """The static memory of a party with ``half`` and the head of ``task``, if any."""
    head = head_of(task, hidden_size, lm_head, step.parts) if task is not None else []
    output = output_bytes(half, lm_head) if task is not None and task.causal_only else 0
    return StaticMemory(
        bytes_of([*half.parameters(), *half.buffers()]) - _left_on_disk(half, step),
        adapter_bytes(ranks, features),
        bytes_of(head),
        output,
        len(step.trained) * len(ranks) + len(head),
        sum(
            4 * rank * size
            for path, rank in ranks.items()
            for part, size in zip("AB", features[path], strict=True)
            if part not in step.trained
        ),
    )


def _left_on_disk(half: nn.Module, step: Step) -> int:
    """What rows of the token embedding take less than its table."""
    if step.embedding_rows is None:
        return 0
    table: Tensor = half.get_input_embeddings().weight  # type: ignore[operator]
    rows = min(step.embedding_rows, len(table))
    return table.nbytes - row_embedding_bytes(rows, table.shape[1], step.dtype)


def head_of(task: BaseTask, hidden_size: int, lm_head: nn.Module | None, parts: CutParts = NO_PARTS) -> list[Tensor]:
    """The trained parameters of a task's head, without storage, with those that mechanisms add to it."""
    with torch.device("meta"):
        head = parts.add_to(task.build_head(hidden_size, lm_head), hidden_size)
        return [p for p in head.parameters() if p.requires_grad]


def adapter_bytes(ranks: Mapping[str, int], features: Mapping[str, tuple[int, int]]) -> int:
    """Bytes of a set of adapters: r (d_in + d_out) float32 numbers for each layer."""
    return sum(4 * rank * sum(features[path]) for path, rank in ranks.items())


def optimizer_bytes(optimizer: str, trained: int, tensors: int) -> int:
    """Bytes of an optimizer's state for ``trained`` bytes; AdamW has a float32 step counter for each tensor."""
    return MOMENTS[optimizer] * trained + (4 * tensors if optimizer == "adamw" else 0)


def output_bytes(half: nn.Module, lm_head: nn.Module | None) -> int:
    """Bytes of the output embedding, or 0 if it is tied to an embedding of the half."""
    own = {id(p) for p in half.parameters()}
    return bytes_of(p for p in lm_head.parameters() if id(p) not in own) if lm_head is not None else 0


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of meta tensors, each counted once."""
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def model_on_meta(
    family: BaseFamily, hf_config: PreTrainedConfig, weights: WeightFormat
) -> tuple[nn.Module, nn.Module | None]:
    """The base and its output embedding; cached, as a table of all split layers asks for the same model repeatedly."""
    return _model(_Key(hf_config.to_json_string(use_diff=False), weights, family, hf_config))


@dataclass(frozen=True)
class _Key:
    text: str
    weights: WeightFormat
    family: BaseFamily = field(compare=False)
    hf_config: PreTrainedConfig = field(compare=False)


@lru_cache(maxsize=4)
def _model(key: _Key) -> tuple[nn.Module, nn.Module | None]:
    return meta_model(key.hf_config, key.family, getattr(torch, key.weights.dtype), key.weights.quantization)
