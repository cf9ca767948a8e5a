"""Memory of a client and of the server, predicted from the model's shapes without loading weights.

Weights, adapters, gradients and optimizer state are counted exactly. What is saved for backward comes from the formula
of the model's family where there is one that holds, else from a trace of the modules (``planning.trace``). What else is
alive at the moment when most is, is traced in any case: with a formula on the two topmost blocks, where it is most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from atlas_cli.models.block_paths import by_layer, layer_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.halves.split import client_half, server_half
from atlas_cli.planning.memory.held import (
    Held,
    PartyMemory,
    adapter_bytes,
    bytes_of,
    head_of,
    held_by,
    model_on_meta,
    output_bytes,
)
from atlas_cli.planning.memory.saved_formula import ELEMENT, blocks_saved, checkpointed_saved
from atlas_cli.planning.memory.saved_trace import Traced, shortened, trace
from atlas_cli.planning.memory.step import Step
from atlas_cli.tasks.contract import BaseTask

__all__ = ["PartyMemory", "predict_client", "predict_server", "predict_unsplit", "predict_whole"]


def predict_client(
    family: BaseFamily,
    hf_config: Any,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
    *,
    task: BaseTask | None = None,
) -> PartyMemory:
    """Memory of a client that holds blocks ``0 .. cut-1``.

    Args:
        ranks: Rank of each adapter on the client, by path in the base, such as ``h.0.attn.c_attn``.
        features: (d_in, d_out) of each adapted layer, by path.
        step: The training step. With dropout, autocast or only B trained, no formula holds.
        task: The task of the head, if head and labels stay on the client; no formula holds then.
    """
    base, lm_head = model_on_meta(family, hf_config, step.dtype)
    half = client_half(base, family, cut)
    held = held_by(half, lm_head, ranks, features, task, int(hf_config.hidden_size), step.trained)
    cut_buffers = 2 * _width(hf_config, step, step.dtype)
    if task is not None:  # the head's input and the gradient of that cross the network as well
        cut_buffers += 2 * _width(hf_config, step, step.received)
    used, how = _step(family, hf_config, range(cut), ranks, step, task=task, formula=task is None)
    return held.training(step.optimizer, used, cut_buffers, how)


def predict_server(
    family: BaseFamily,
    hf_config: Any,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
    tasks: Sequence[BaseTask | None],
    *,
    traced: BaseTask | None = None,
) -> PartyMemory:
    """Memory of a server that holds blocks ``cut ..`` while it serves one client.

    What comes after the blocks (final norm, head and loss) is traced in any case.

    Args:
        ranks: Rank of each adapter that the server trains for one task group, by path in the base.
        features: (d_in, d_out) of each adapted layer, by path.
        step: The training step; ``received_dtype`` is the type of the client's activations.
        tasks: The task of each task group whose head is on the server, None for a group whose head is not. Each group
            has adapters, a head and an optimizer of its own.
        traced: The task whose head and loss are part of the step; by default the first of ``tasks``.
    """
    base, lm_head = model_on_meta(family, hf_config, step.dtype)
    half = server_half(base, family, cut)
    heads = [head_of(task, int(hf_config.hidden_size), lm_head) for task in tasks if task is not None]
    held = Held(
        bytes_of([*half.parameters(), *half.buffers()]),
        len(tasks) * adapter_bytes(ranks, features),
        sum(bytes_of(head) for head in heads),
        output_bytes(half, lm_head) if any(task is not None and task.causal_only for task in tasks) else 0,
        len(tasks) * 2 * len(ranks) + sum(len(head) for head in heads),
    )
    layers = range(cut, int(hf_config.num_hidden_layers))
    used, how = _step(family, hf_config, layers, ranks, step, task=traced or tasks[0])
    # what comes in another type is there besides what the half computes with
    alike = step.received == step.dtype
    return held.training(step.optimizer, used, 2 * _width(hf_config, step, step.received), how, cut_traced=alike)


def predict_unsplit(
    family: BaseFamily,
    hf_config: Any,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
    *,
    task: BaseTask | None = None,
    run_head: bool = True,
) -> PartyMemory:
    """Memory of one client with the whole model; what comes after the blocks is traced in any case.

    Args:
        ranks: Rank of each adapter, in any layer, by path in the base.
        features: (d_in, d_out) of each adapted layer, by path.
        step: The training step.
        task: The task whose head the client trains.
        run_head: Whether head and loss are part of the step that is traced.
    """
    base, lm_head = model_on_meta(family, hf_config, step.dtype)
    held = held_by(base, lm_head, ranks, features, task, int(hf_config.hidden_size), step.trained)
    layers = range(int(hf_config.num_hidden_layers))
    used, how = _step(family, hf_config, layers, ranks, step, whole=True, task=task if run_head else None)
    return held.training(step.optimizer, used, 0, how)


def predict_whole(family: BaseFamily, hf_config: Any, step: Step, *, task: BaseTask) -> PartyMemory:
    """Memory of full fine-tuning with AdamW, by trace: all weights, those of the head of ``task`` too, are trained.

    The step that is traced ends at the final norm. Its temporaries are gone when the gradients are complete.
    """
    base, lm_head = model_on_meta(family, hf_config, step.dtype)
    held = held_by(base, lm_head, {}, {}, task, int(hf_config.hidden_size))
    weights = held.frozen + held.head + held.output
    layers = range(int(hf_config.num_hidden_layers))
    saved = trace(family, hf_config, layers, {}, step, whole=True, train_weights=True).saved
    return PartyMemory(weights, 0, 0, weights, 2 * weights, saved, 0, 0, "trace")


def _step(
    family: BaseFamily,
    hf_config: Any,
    layers: range,
    ranks: Mapping[str, int],
    step: Step,
    *,
    whole: bool = False,
    task: BaseTask | None = None,
    formula: bool = True,
) -> tuple[Traced, str]:
    """What a step saves and has alive, and how that is known: by formula for all blocks but the two that are traced, or
    from a trace of all."""
    blocks = _by_formula(family, hf_config, layers, ranks, step) if formula else None
    if blocks is None:
        return trace(family, hf_config, layers, ranks, step, whole=whole, task=task), "trace"
    topmost, above = _topmost(family, layers, ranks)
    short = shortened(hf_config, topmost.stop)
    kind = None if task is None else (type(task), len(task.classes), task.pooling)
    key = _Key(
        short.to_json_string(use_diff=False), topmost, tuple(above.items()), step, whole, kind, family, short, task
    )
    traced = _traced(key)
    below = blocks - (_by_formula(family, short, topmost, above, step) or 0)
    # of more blocks, the lowest may need most, once the gradients of all above are there
    gradients = 0 if below else traced.gradients
    return Traced(traced.saved + below, traced.peak + below, gradients), "formula"


@dataclass(frozen=True)
class _Key:
    """What a trace of topmost blocks follows from, the same for most cuts of a table and most clients."""

    config: str
    layers: range
    ranks: tuple[tuple[str, int], ...]
    step: Step
    whole: bool
    head: object
    family: BaseFamily = field(compare=False)
    hf_config: Any = field(compare=False)
    task: BaseTask | None = field(compare=False)


@lru_cache(maxsize=256)
def _traced(key: _Key) -> Traced:
    return trace(key.family, key.hf_config, key.layers, dict(key.ranks), key.step, whole=key.whole, task=key.task)


def _topmost(family: BaseFamily, layers: range, ranks: Mapping[str, int]) -> tuple[range, dict[str, int]]:
    """Two blocks that need as much at once as all that have a backward, and their adapters.

    Above is the topmost; below stands one for all others, with the largest adapters of any of them; and below that one
    without a backward where there are such.
    """
    placed = by_layer(ranks, family)
    lowest = layers.start or min(placed, default=layers.stop - 1)
    offset = min(lowest, 1)
    size = min(2, layers.stop - lowest)
    found: dict[str, int] = {}
    for path, rank in ranks.items():
        layer = layer_of(path, family)
        place = offset + (size - 1 if layer == layers.stop - 1 else 0)
        stand_in = path.replace(f"{family.blocks}.{layer}.", f"{family.blocks}.{place}.", 1)
        found[stand_in] = max(rank, found.get(stand_in, 0))
    return range(min(layers.start, 1), offset + size), found


def _by_formula(family: BaseFamily, hf_config: Any, layers: range, ranks: Mapping[str, int], step: Step) -> int | None:
    """Saved bytes of all blocks; None where no formula holds."""
    if step.dropout or step.autocast or "A" not in step.trained:
        return None
    blocks = blocks_saved(
        family,
        hf_config,
        layers,
        ranks,
        step.batch,
        step.tokens,
        dtype=step.dtype,
        padded=step.padded,
        fused_gelu=step.fused_gelu,
        gradient_below=layers.start > 0,
    )
    if blocks is None or not step.checkpointing:
        return None if blocks is None else sum(blocks)
    trained = sum(1 for size in blocks if size)
    return checkpointed_saved(family, hf_config, trained, step.batch, step.tokens, dtype=step.dtype, padded=step.padded)


def _width(hf_config: Any, step: Step, dtype: str) -> int:
    """Bytes of the hidden states of a batch in a type."""
    return step.batch * step.tokens * int(hf_config.hidden_size) * ELEMENT[dtype]
