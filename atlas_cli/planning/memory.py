"""Memory of a client and of the server, predicted from the model's shapes without loading weights.

Weights, adapters, gradients and optimizer state are counted exactly. What is saved for backward comes from the formula
of the model's family where there is one that holds, else from a trace of the modules (``planning.trace``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from atlas_cli.models.families._base import Family
from atlas_cli.models.split import client_half, server_half
from atlas_cli.planning.held import Held, PartyMemory, adapter_bytes, bytes_of, held_by, model_on_meta, output_bytes
from atlas_cli.planning.saved_bytes import ELEMENT, blocks_saved, checkpointed_saved, feed_forward_transient
from atlas_cli.planning.trace import Step, trace
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks._base import BaseTask

# tensors of the width of the model that the attention of a block has alive when it runs again, at most
ATTENTION_TRANSIENT = 7

__all__ = ["PartyMemory", "predict_client", "predict_server", "predict_unsplit", "predict_whole"]


def predict_client(
    family: Family,
    hf_config: Any,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    batch: int,
    tokens: int,
    *,
    dtype: str = "float32",
    padded: bool = True,
    checkpointing: bool = False,
    fused_gelu: bool = False,
    optimizer: str = "adamw",
    dropout: float = 0.0,
    autocast: bool = False,
    task: BaseTask | None = None,
    features_dtype: str | None = None,
    trained: tuple[str, ...] = ("A", "B"),
) -> PartyMemory:
    """Memory of a client that holds blocks ``0 .. cut-1``.

    Args:
        ranks: of its adapters, by path in the base, e.g. ``h.0.attn.c_attn``; ``features``: their (d_in, d_out).
        batch: examples; ``tokens``: of each, padding included; ``padded``: whether the batch has padding.
        dtype: of the frozen weights; adapters, their gradients and moments are float32.
        optimizer: "adamw", "sgd" or "sgd-momentum".
        dropout: of the adapters; with it, with ``autocast`` (to bfloat16) and with a ``task`` there is no formula.
        task: of the head, where head and labels stay on the client; ``features_dtype``: of what the server returns to
            it, where that is not ``dtype``.
        trained: parts of the adapters; with B alone there is no formula.
    """
    step = Step(batch, tokens, padded, dtype, checkpointing, fused_gelu, dropout, autocast, features_dtype, trained)
    base, lm_head = model_on_meta(family, hf_config, dtype)
    held = held_by(client_half(base, family, cut), lm_head, ranks, features, task, int(hf_config.hidden_size), trained)
    # with a head, its input and the gradient of that cross the network as well
    cut_buffers = 2 * _width(hf_config, step)
    if task is not None:
        cut_buffers += 2 * _width(hf_config, replace(step, dtype=features_dtype or dtype))
    blocks = _by_formula(family, hf_config, range(cut), ranks, step) if task is None else None
    if blocks is not None:
        return held.training(optimizer, blocks[0], cut_buffers, "formula", transient=blocks[1])
    traced = trace(family, hf_config, range(cut), ranks, step, task=task)
    return held.training(optimizer, traced.saved, cut_buffers, "trace", traced_peak=traced.peak)


def predict_server(
    family: Family,
    hf_config: Any,
    cut: int,
    upper_ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    batch: int,
    tokens: int,
    *,
    dtype: str = "float32",
    padded: bool = True,
    head_parameters: int | Sequence[int] = 0,
    lm_head: bool = False,
    groups: int = 1,
    optimizer: str = "adamw",
    fused_gelu: bool = False,
    dropout: float = 0.0,
    autocast: bool = False,
    task: BaseTask | None = None,
    received_dtype: str | None = None,
) -> PartyMemory:
    """Memory of a server that holds blocks ``cut ..`` while it serves one client.

    What comes after the blocks (final norm, head and loss) is traced in any case.

    Args:
        upper_ranks: of the adapters of one task group on its half, by path in the base.
        head_parameters: numbers trained in the head of each task group (an int: of one group), 0 for a frozen
            language-modelling head or one that stays on the clients.
        lm_head: whether any task group uses the output embedding here.
        groups: task groups, each with adapters and an optimizer of its own.
        task: whose head runs in the trace; default: one that fits ``lm_head`` and ``head_parameters``.
        received_dtype: of the client's activations, where it is not ``dtype``.

    Other arguments are those of ``predict_client``.
    """
    step = Step(batch, tokens, padded, dtype, False, fused_gelu, dropout, autocast)
    base, output = model_on_meta(family, hf_config, dtype)
    half = server_half(base, family, cut)
    heads = [head_parameters] if isinstance(head_parameters, int) else list(head_parameters)
    held = Held(
        bytes_of([*half.parameters(), *half.buffers()]),
        groups * adapter_bytes(upper_ranks, features),
        4 * sum(heads),
        output_bytes(half, output) if lm_head else 0,
        groups * 2 * len(upper_ranks) + 2 * sum(1 for n in heads if n),  # weight and bias of a head
    )
    task = task or _fitting_task(lm_head, heads, int(hf_config.hidden_size))
    layers = range(cut, int(hf_config.num_hidden_layers))
    width = _width(hf_config, step)
    cut_buffers = 2 * _width(hf_config, replace(step, dtype=received_dtype or dtype))
    blocks = _by_formula(family, hf_config, layers, upper_ranks, step)
    if blocks is None or len(layers) <= 2:  # where the top is much of all, what is alive there is traced with the rest
        traced = trace(family, hf_config, layers, upper_ranks, step, task=task)
        return held.training(optimizer, traced.saved, cut_buffers, "trace", traced_peak=traced.peak)
    top = trace(family, hf_config, range(layers.stop, layers.stop), {}, step, task=task)
    # most is alive either at the loss or in the feed-forward of the top block
    transient = max(top.peak - top.saved - width, blocks[1])
    return held.training(optimizer, blocks[0] + top.saved, cut_buffers, "formula", transient=transient)


def predict_unsplit(
    family: Family,
    hf_config: Any,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
    *,
    optimizer: str = "adamw",
    task: BaseTask | None = None,
    run_head: bool = True,
) -> PartyMemory:
    """Memory of one client with the whole model; what comes after the blocks is traced in any case.

    Args:
        ranks: of adapters in any layer, by path in the base.
        task: whose head it trains; ``run_head``: whether head and loss are part of the step that is traced.
    """
    base, lm_head = model_on_meta(family, hf_config, step.dtype)
    held = held_by(base, lm_head, ranks, features, task, int(hf_config.hidden_size), step.trained)
    layers = range(int(hf_config.num_hidden_layers))
    task = task if run_head else None
    blocks = _by_formula(family, hf_config, layers, ranks, step)
    if blocks is not None and len(layers) > 2:
        top = trace(family, hf_config, range(layers.stop, layers.stop), {}, step, task=task)
        transient = max(top.peak - top.saved, blocks[1])
        return held.training(optimizer, blocks[0] + top.saved, 0, "formula", transient=transient)
    traced = trace(family, hf_config, layers, ranks, step, whole=True, task=task)
    return held.training(optimizer, traced.saved, 0, "trace", traced_peak=traced.peak)


def predict_whole(family: Family, hf_config: Any, step: Step, *, task: BaseTask) -> PartyMemory:
    """Memory of full fine-tuning with AdamW, by trace: all weights, those of the head of ``task`` too, are trained.

    The step that is traced ends at the final norm. Its temporaries are gone when the gradients are complete.
    """
    base, lm_head = model_on_meta(family, hf_config, step.dtype)
    held = held_by(base, lm_head, {}, {}, task, int(hf_config.hidden_size))
    weights = held.frozen + held.head + held.output
    layers = range(int(hf_config.num_hidden_layers))
    saved = trace(family, hf_config, layers, {}, step, whole=True, train_weights=True).saved
    return PartyMemory(weights, 0, 0, weights, 2 * weights, saved, 0, 0, "trace")


def _by_formula(
    family: Family, hf_config: Any, layers: range, ranks: Mapping[str, int], step: Step
) -> tuple[int, int] | None:
    """Saved bytes and transient; None where no formula holds."""
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
    if blocks is None:
        return None
    positions, element = step.batch * step.tokens, ELEMENT[step.dtype]
    transient = feed_forward_transient(hf_config, positions, element, step.fused_gelu) if any(blocks) else 0
    if not step.checkpointing or not blocks:
        return sum(blocks), transient
    if transient < ATTENTION_TRANSIENT * _width(hf_config, step):
        return None  # a narrow feed-forward is not where most is alive
    trained = sum(1 for size in blocks if size)
    saved = checkpointed_saved(
        family, hf_config, trained, step.batch, step.tokens, dtype=step.dtype, padded=step.padded
    )
    # one block at a time saves as without checkpointing, but its input is there already
    return saved, transient + max(blocks) - _width(hf_config, step)


def _width(hf_config: Any, step: Step) -> int:
    """Bytes of the activations at the cut."""
    return step.batch * step.tokens * int(hf_config.hidden_size) * ELEMENT[step.dtype]


def _fitting_task(lm_head: bool, heads: Sequence[int], hidden_size: int) -> BaseTask | None:
    if lm_head:
        return build_task("causal-lm")
    if not any(heads):
        return None
    classes = max(2, max(heads) // (hidden_size + 1))
    return build_task("sequence-classification", [str(c) for c in range(classes)])
