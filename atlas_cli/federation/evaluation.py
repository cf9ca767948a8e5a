"""Evaluation through the split, without autograd, in large batches of real tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from atlas_cli.data.collate import collate, evaluation_batches
from atlas_cli.federation.client import as_inputs
from atlas_cli.models.load import FrozenBase
from atlas_cli.models.lora import AdapterSet
from atlas_cli.models.split import client_half, run_half, server_half
from atlas_cli.tasks._base import BaseTask, Feature


@dataclass(frozen=True)
class TrainedModel:
    """Everything trained that a prediction needs: adapters on either side of the cut, and a head."""

    adapters: AdapterSet
    head: nn.Module


class Evaluator:
    """Runs test parts through both halves of the model.

    Args:
        base: the frozen base; ``cut``: where it is split.
        batch_size: examples a pass; ``pad``: token number to pad with.
    """

    def __init__(self, base: FrozenBase, cut: int, batch_size: int, pad: int, device: torch.device) -> None:
        self.base, self.batch_size, self.pad, self.device = base, batch_size, pad, device
        self.lower_half = client_half(base.model, base.family, cut)
        self.upper_half = server_half(base.model, base.family, cut)

    @torch.no_grad()
    def __call__(self, task: BaseTask, features: Sequence[Feature], model: TrainedModel) -> dict[str, float]:
        """The task's metrics over ``features``."""
        metric = task.metric()
        model.adapters.train(False)
        with model.adapters.attached(self.base.model):
            for rows in evaluation_batches(features, self.batch_size):
                batch = collate(task, [features[i] for i in rows], self.pad)
                inputs, mask = as_inputs(batch.inputs(), self.device)
                activations = run_half(self.lower_half, mask, **inputs)
                hidden = run_half(self.upper_half, mask, inputs_embeds=activations)
                metric.update(model.head(hidden, mask), batch.labels.to(self.device), batch.features)
        return metric.compute()


def mean_metrics(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The plain mean over clients, where a group has no model of its own."""
    return {name: sum(m[name] for m in each) / len(each) for name in each[0]}
