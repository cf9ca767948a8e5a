"""The head of a client that learns by a loss of its own: on the output of its blocks the model's final norm, and then
the task's head.

Hidden states in the middle of a pre-norm model grow from block to block, and an output embedding or a classifier reads
normed ones; so the norm is copied, and trained with the head. More blocks would help little (HERON, 2601.09076, finds
a norm and the unembedding enough) and cost what the client wants to save.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.tasks.contract import BaseTask


class AuxiliaryHead(nn.Module):
    """A norm with float32 parameters, and a task's head.

    Args:
        norm: None where the model's blocks end in norms of their own.
    """

    def __init__(self, norm: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """What the task's head makes of the normed hidden states."""
        if self.norm is not None:
            with torch.autocast(hidden_BTD.device.type, enabled=False):
                hidden_BTD = self.norm(hidden_BTD.float()).to(hidden_BTD.dtype)
        logits: Tensor = self.head(hidden_BTD, mask_BT)
        return logits


def auxiliary_head(
    model: nn.Module, hf_config: PreTrainedConfig, family: BaseFamily, task: BaseTask, lm_head: nn.Module | None
) -> AuxiliaryHead:
    """The head as it is before training; call it within a seeded block.

    Args:
        model: the base; where it holds no final norm (a part that a client holds) that of the head has no values yet,
            and gets those that are delivered.
    """
    return AuxiliaryHead(_norm(model, hf_config, family), task.build_head(int(hf_config.hidden_size), lm_head))


def trained_tensors(hf_config: PreTrainedConfig, family: BaseFamily, task: BaseTask) -> dict[str, Tensor]:
    """Its trained parameters without storage, as they are sent."""
    with torch.device("meta"):
        model, _ = meta_model(hf_config, family)
        head = auxiliary_head(model, hf_config, family, task, nn.Identity())
    return {f"head.{name}": p for name, p in head.named_parameters() if p.requires_grad}


def _norm(model: nn.Module, hf_config: PreTrainedConfig, family: BaseFamily) -> nn.Module | None:
    if family.final_norm is None:
        return None
    found: Any = model.get_submodule(family.final_norm)
    if isinstance(found, nn.Identity) or any(p.is_meta for p in found.parameters()):
        whole, _ = meta_model(hf_config, family)
        norm = whole.get_submodule(family.final_norm).to_empty(device=next(model.parameters()).device)
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.zero_()
    else:
        norm = copy.deepcopy(found)
    return norm.float().requires_grad_(True)
