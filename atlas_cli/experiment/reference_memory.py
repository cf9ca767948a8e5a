"""Memory of the same model without a split, for comparison.

It is traced on tensors without storage (``planning.memory.saved_trace``), in a batch like those of clients: a real
forward of the whole model with all its weights trained would take more memory than the run that it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.measured_memory import Usage, tensor_bytes
from atlas_cli.planning.memory.party_memory import adapter_bytes, bytes_of, head_of
from atlas_cli.planning.memory.saved_trace import saved_by_all
from atlas_cli.planning.memory_of_plan import Shape, reference_step, unsplit_ranks


def reference_memory(federation: Federation, usages: Sequence[Usage]) -> dict[str, dict[str, object]]:
    """Bytes of full fine-tuning and of unsplit LoRA with AdamW, for memory.json.

    They depend on the config, the plan and the batch alone, not on earlier merges, evaluations or resuming.

    Args:
        usages: of clients that took a step; the batch of the one that saved most is used.
    """
    plan, base, training = federation.plan, federation.base, federation.config.training
    largest = max(usages, key=lambda u: u.saved_activations, default=None)
    if largest is None:
        shape = Shape(training.batch_size, training.max_length, False)
        which = "a full batch of the longest examples, as no client had one"
    else:
        shape = Shape(largest.batch_size, largest.batch_tokens // largest.batch_size, False)
        which = "the batch of the client that saved most"
    how = (
        f"traced without storage: one forward of the whole model, {shape.batch} x {shape.tokens} tokens, {which}; "
        "gradients and AdamW state from sizes"
    )
    ranks, step, task = (
        unsplit_ranks(plan),
        reference_step(plan, shape),
        federation.data[federation.group_names[0]].task,
    )
    head = bytes_of(head_of(task, plan.hidden_size, base.lm_head))
    parameters = [*base.model.parameters(), *_output(federation)]
    everything = head + tensor_bytes(parameters)
    weights = head + tensor_bytes([*parameters, *base.model.buffers()])  # buffers have neither gradients nor moments
    trained = head + adapter_bytes(ranks, plan.features)
    what = plan.family, plan.hf_config
    lora = {
        "weights": weights,
        "adapters": adapter_bytes(ranks, plan.features),
        "gradients": trained,
        "optimizer": 2 * trained,
        "saved_activations": saved_by_all(*what, ranks, step),
        "how": how,
    }
    full = {
        "weights": weights,
        "adapters": 0,
        "gradients": everything,
        "optimizer": 2 * everything,
        "saved_activations": saved_by_all(*what, {}, step, train_weights=True),
        "how": how,
    }
    return {"full_fine_tuning": _with_total(full), "unsplit_lora": _with_total(lora)}


def _output(federation: Federation) -> list[Tensor]:
    """The language-modelling head, where a task group uses it; tied weights are counted with the embedding."""
    lm_head = federation.base.lm_head
    used = any(group.task.causal_only for group in federation.data.values())
    return list(lm_head.parameters()) if used and lm_head is not None else []


def _with_total(parts: dict[str, object]) -> dict[str, object]:
    return {**parts, "total": sum(v for v in parts.values() if isinstance(v, int))}
