"""Memory of a client and of the server, predicted from the model's shapes without loading weights.

Weights, adapters, gradients and optimizer state are counted exactly. What is saved for backward, and what else is alive
at the moment when most is, comes from traces of a few of the model's own blocks (``few_blocks``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import Learns
from atlas_cli.models.auxiliary_head import trained_tensors
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.halves.split import client_half, server_half
from atlas_cli.planning.memory.few_blocks import step_of
from atlas_cli.planning.memory.party_memory import (
    PartyMemory,
    StaticMemory,
    adapter_bytes,
    bytes_of,
    head_of,
    model_on_meta,
    output_bytes,
    static_memory,
)
from atlas_cli.planning.memory.saved_trace import saved_by_all
from atlas_cli.planning.memory.step import ELEMENT, Step
from atlas_cli.tasks.contract import BaseTask


def predict_client(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
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
        step: The training step.
        task: The task of the head, if head and labels stay on the client.
    """
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    half = client_half(base, family, cut)
    held = static_memory(half, lm_head, ranks, features, task, int(hf_config.hidden_size), step)
    cut_buffers = 2 * _width(hf_config, step, step.dtype)
    if task is not None:  # the head's input and the gradient of that cross the network as well
        cut_buffers += 2 * _width(hf_config, step, step.received)
    used = step_of(family, hf_config, range(cut), ranks, step, task=task)
    return held.training(step.optimizer, used, cut_buffers)


def predict_split_client(
    learns: Learns,
    family: BaseFamily,
    hf_config: PreTrainedConfig,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
    *,
    task: BaseTask | None = None,
) -> PartyMemory:
    """As ``predict_client``, by how the client learns."""
    if learns == "frozen":
        return predict_frozen(family, hf_config, cut, step)
    if learns == "auxiliary":
        assert task is not None, "it has a head of its own"
        return predict_auxiliary(family, hf_config, cut, ranks, features, step, task)
    if learns == "zeroth-order":
        return predict_zeroth_order(family, hf_config, cut, ranks, features, step)
    return predict_client(family, hf_config, cut, ranks, features, step, task=task)


def predict_frozen(family: BaseFamily, hf_config: PreTrainedConfig, cut: int, step: Step) -> PartyMemory:
    """Memory of a client that does not learn: its blocks, the activations of the batch that it sends, and what is alive
    while it computes one text of it, without padding; nothing is saved for a backward, and nothing comes back.
    """
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    held = static_memory(client_half(base, family, cut), lm_head, {}, {}, None, int(hf_config.hidden_size), step)
    one = replace(step, batch=1, padded=False)
    alive = step_of(family, hf_config, range(cut), {}, one)
    sent = _width(hf_config, step, step.dtype)
    tokens_and_masks = 17 * step.batch * step.tokens  # two int64 and a bool
    return PartyMemory(held.frozen, 0, 0, 0, 0, 0, sent, alive.forward + tokens_and_masks)


def predict_auxiliary(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
    task: BaseTask,
) -> PartyMemory:
    """Memory of a client with a loss of its own: that of a model of its blocks, with final norm, head and loss.

    Of what crosses the cut it holds the activations, which are saved for the backward, too, or alive in it.
    """
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    half = client_half(base, family, cut)
    held = static_memory(half, lm_head, ranks, features, task, int(hf_config.hidden_size), step)
    trained = list(trained_tensors(hf_config, family, task).values())
    more = len(trained) - len(head_of(task, int(hf_config.hidden_size), lm_head))
    held = replace(held, head=bytes_of(trained), trained_tensors=held.trained_tensors + more)
    used = step_of(family, hf_config, range(cut), ranks, step, whole=True, task=task)
    return held.training(step.optimizer, used, _width(hf_config, step, step.dtype))


def predict_zeroth_order(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
    cut: int,
    ranks: Mapping[str, int],
    features: Mapping[str, tuple[int, int]],
    step: Step,
) -> PartyMemory:
    """Memory of a client that learns by forward passes: as ``predict_client``, with nothing saved for a backward.

    Besides its gradients it holds a copy of what it trains, and a perturbation as large.
    """
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    half = client_half(base, family, cut)
    held = static_memory(half, lm_head, ranks, features, None, int(hf_config.hidden_size), step)
    alive = step_of(family, hf_config, range(cut), ranks, replace(step, trained=()))
    width = _width(hf_config, step, step.dtype)
    memory = held.training(step.optimizer, alive, 2 * width)
    return replace(memory, saved_activations=0, transient=alive.forward + 2 * memory.gradients)


def predict_server(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
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
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    half = server_half(base, family, cut)
    heads = [head_of(task, int(hf_config.hidden_size), lm_head) for task in tasks if task is not None]
    held = StaticMemory(
        bytes_of([*half.parameters(), *half.buffers()]),
        len(tasks) * adapter_bytes(ranks, features),
        sum(bytes_of(head) for head in heads),
        output_bytes(half, lm_head) if any(task is not None and task.causal_only for task in tasks) else 0,
        len(tasks) * 2 * len(ranks) + sum(len(head) for head in heads),
    )
    layers = range(cut, int(hf_config.num_hidden_layers))
    used = step_of(family, hf_config, layers, ranks, step, task=traced or tasks[0])
    # what comes in another type is there besides what the half computes with
    alike = step.received == step.dtype
    at_cut = (1 + step.answered) * _width(hf_config, step, step.received)
    return held.training(step.optimizer, used, at_cut, cut_traced=alike)


def predict_unsplit(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
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
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    held = static_memory(base, lm_head, ranks, features, task, int(hf_config.hidden_size), step)
    layers = range(int(hf_config.num_hidden_layers))
    used = step_of(family, hf_config, layers, ranks, step, whole=True, task=task if run_head else None)
    return held.training(step.optimizer, used, 0)


def predict_whole(family: BaseFamily, hf_config: PreTrainedConfig, step: Step, *, task: BaseTask) -> PartyMemory:
    """Memory of full fine-tuning with AdamW, by trace: all weights, those of the head of ``task`` too, are trained,
    so that none is quantised.

    The step that is traced ends at the final norm. Its temporaries are gone when the gradients are complete.
    """
    step = replace(step, quantization="none")
    base, lm_head = model_on_meta(family, hf_config, step.weights)
    held = static_memory(base, lm_head, {}, {}, task, int(hf_config.hidden_size), step)
    weights = held.frozen + held.head + held.output
    saved = saved_by_all(family, hf_config, {}, step, train_weights=True)
    return PartyMemory(weights, 0, 0, weights, 2 * weights, saved, 0, 0)


def _width(hf_config: PreTrainedConfig, step: Step, dtype: str) -> int:
    """Bytes of the hidden states of a batch in a type."""
    return step.batch * step.tokens * int(hf_config.hidden_size) * ELEMENT[dtype]
