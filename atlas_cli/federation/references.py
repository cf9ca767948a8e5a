"""What the same model would need without a split.

Measured by one forward each of the whole base, in a batch as clients have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlas_cli.federation.memory import Usage, saved_bytes, tensor_bytes
from atlas_cli.federation.parties import Federation
from atlas_cli.models.lora import AdapterSet
from atlas_cli.models.split import run_half


def reference_memory(federation: Federation, usages: Sequence[Usage]) -> dict[str, dict[str, object]]:
    """Bytes of full fine-tuning and of unsplit LoRA with AdamW, for memory.json.

    Args:
        usages: of the clients; the batch of the one that saved most is used.
    """
    largest = max(usages, key=lambda u: u.saved_activations)
    shape = (largest.batch_size, largest.batch_tokens // max(1, largest.batch_size))
    group = federation.group_names[0]
    model = next(iter(federation.models_of_group(group).values()), None)
    if model is None:
        first = federation.members(group)[0]
        with federation.at_hand([first]):
            model = federation.model_of_client(first)
    base = federation.base.model
    trained = [*model.adapters.parameters(), *model.head.parameters()]
    weights = tensor_bytes([*base.parameters(), *base.buffers(), *model.head.parameters(), *_output(federation)])
    how = (
        f"measured: one forward of the whole model, {shape[0]} x {shape[1]} tokens; "
        "gradients and AdamW state from sizes"
    )
    lora = {
        "weights": weights,
        "adapters": tensor_bytes(model.adapters.parameters()),
        "gradients": tensor_bytes(trained),
        "optimizer": 2 * tensor_bytes(trained),
        "saved_activations": _saved(federation, shape, model.adapters),
        "how": how,
    }
    base.requires_grad_(True)
    try:
        full = {
            "weights": weights,
            "adapters": 0,
            "gradients": weights,
            "optimizer": 2 * weights,
            "saved_activations": _saved(federation, shape, AdapterSet({})),
            "how": how,
        }
    finally:
        base.requires_grad_(False)
    return {"full_fine_tuning": _with_total(full), "unsplit_lora": _with_total(lora)}


def _output(federation: Federation) -> list[Tensor]:
    """The language-modelling head, where a task group uses it; tied weights are counted with the embedding."""
    lm_head = federation.base.lm_head
    used = any(group.task.causal_only for group in federation.data.values())
    return list(lm_head.parameters()) if used and lm_head is not None else []


def _saved(federation: Federation, shape: tuple[int, int], adapters: AdapterSet) -> int:
    base: nn.Module = federation.base.model
    ids = torch.full(shape, 1, dtype=torch.int64, device=federation.device)
    weights = [*base.parameters(), *adapters.parameters()]
    with adapters.attached(base), saved_bytes(weights) as saved:
        run_half(base, torch.ones_like(ids), input_ids=ids)
    return saved.total


def _with_total(parts: dict[str, object]) -> dict[str, object]:
    return {**parts, "total": sum(v for v in parts.values() if isinstance(v, int))}
