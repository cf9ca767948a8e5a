"""LoRA adapters that hold all of a model's update: a change of the base is folded into them."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Factors
from atlas_cli.aggregation.low_rank import stack, truncate
from atlas_cli.federation.federation import Federation
from atlas_cli.models.adapters.lora import LORA, AdapterSet, LoRAAdapter


@torch.no_grad()
def fold_base_change(federation: Federation, adapters: AdapterSet) -> AdapterSet:
    """Fold base changes into the adapters: the same update with one LoRA adapter per layer, of sufficient rank."""
    if not adapters.frozen and federation.plan.form == LORA:
        return adapters
    result: dict[str, LoRAAdapter] = {}
    for path in (path for path in federation.plan.features if path in adapters.adapters or path in adapters.frozen):
        pieces = [Factors(A, B) for A, B in adapters.beside(path)]
        if (own := adapters.adapters.get(path)) is not None:
            A, B = own.factors()
            pieces.append(Factors(A, own.scaling * B))
        whole = stack([(1.0, piece) for piece in pieces], torch.float32)
        most = min(federation.plan.features[path])
        whole = truncate(whole, most) if whole.rank > most else whole
        result[path] = adapter_of(federation, path, whole.A, whole.B)
        result[path].lora_B.div_(result[path].scaling)
    return AdapterSet(result)


@torch.no_grad()
def adapter_of(federation: Federation, path: str, A: Tensor, B: Tensor) -> LoRAAdapter:
    """The adapter of a layer with these values, on their device."""
    lora, (d_in, d_out) = federation.config.lora, federation.plan.features[path]
    values = (lora.alpha, lora.dropout, lora.rslora, torch.Generator())
    adapter = LoRAAdapter(d_in, d_out, len(A), *values).to(A.device)
    adapter.lora_A.copy_(A)
    adapter.lora_B.copy_(B)
    return adapter
