"""Plain PyTorch, transformers and PEFT: what other ways to train are made of. Imports nothing of atlas."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Features = Sequence[Mapping[str, Any]]


def pad(features: Features, pad_id: int, length: int | None = None) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` (B, T) and ``labels`` (B,); T is the longest of the batch, or ``length``."""
    longest = length or max(len(f["input_ids"]) for f in features)
    ids, mask = torch.full((len(features), longest), pad_id), torch.zeros(len(features), longest, dtype=torch.int64)
    for row, feature in enumerate(features):
        count = len(feature["input_ids"])
        ids[row, :count] = torch.tensor(feature["input_ids"])
        mask[row, :count] = 1
    labels = torch.tensor([feature["labels"] for feature in features])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def with_adapters(model: nn.Module, adapters: Mapping[str, Tensor], alpha: float) -> PeftModel:
    """PEFT's LoRA around ``model``, with given values.

    Args:
        adapters: ``<path>.lora_A`` (r, d_in) and ``<path>.lora_B`` (d_out, r), all of one rank.
    """
    paths = sorted({name.rpartition(".")[0] for name in adapters})
    config = LoraConfig(
        r=next(t.shape[0] for name, t in adapters.items() if name.endswith("lora_A")),
        lora_alpha=alpha,
        target_modules=paths,
        fan_in_fan_out=isinstance(model.get_submodule(paths[0]), Conv1D),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a name that transformers is about to drop
        wrapped = get_peft_model(model, config)
    set_peft_model_state_dict(wrapped, {f"base_model.model.{name}.weight": t for name, t in adapters.items()})
    for module in wrapped.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # atlas trains over a base without dropout
    return wrapped


def hidden_states(model: PeftModel, mask_BT: Tensor, **inputs: Tensor) -> Tensor:
    """(B, T, D) of a model, or of half of one."""
    without_cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return model(attention_mask=mask_BT, **inputs, **without_cache).last_hidden_state


class Head(nn.Module):
    """Pooled hidden states to the mean cross-entropy.

    Args:
        classifier: the linear layer.
        pooling: "last" real token, or "mean" over real tokens.
    """

    def __init__(self, classifier: nn.Linear, pooling: str) -> None:
        super().__init__()
        self.classifier, self.pooling = classifier, pooling

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor, labels_B: Tensor) -> Tensor:
        """The loss, 0-d."""
        lengths_B = mask_BT.sum(1)
        if self.pooling == "last":
            pooled_BD = hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), lengths_B - 1]
        else:
            pooled_BD = (hidden_BTD * mask_BT.unsqueeze(-1)).sum(1) / lengths_B.unsqueeze(-1)
        return F.cross_entropy(self.classifier(pooled_BD), labels_B)


class Whole(nn.Module):
    """The unsplit model with adapters and head, as ``transformers.Trainer`` takes it."""

    def __init__(self, backbone: PeftModel, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``{"loss": ...}``."""
        hidden = hidden_states(self.backbone, attention_mask, input_ids=input_ids)
        return {"loss": self.head(hidden, attention_mask, labels)}

    def trained(self) -> dict[str, nn.Parameter]:
        """Adapters and head by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}
