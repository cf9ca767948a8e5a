"""A trained model as one piece: adapters folded into the weights, and no split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.evaluation import Evaluator, Pass
from atlas_cli.federation.parties.party import TrainedModel, as_inputs
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.models.adapters.fold import folded
from atlas_cli.models.halves.split import run_half


class MergedEvaluator(Evaluator):
    """Runs examples through the whole model, in the base's dtype and without noise, as it is deployed in one place."""

    @contextmanager
    def passes(self, model: TrainedModel) -> Iterator[Pass]:
        """As the split's, without a cut."""
        base = self.halves.upper

        def logits_of(batch: Batch, number: int) -> tuple[Tensor, bool]:
            inputs, mask = as_inputs(batch.inputs(), self.device)
            hidden = run_half(base.model, mask, **inputs)
            logits = model.head(hidden, mask)
            return logits, bool(torch.isfinite(hidden).all())

        with folded(base.model, model.adapters):
            yield logits_of


def merged_evaluator(loaded: LoadedModel) -> MergedEvaluator:
    """The evaluator of a loaded model as one piece."""
    size = loaded.config.evaluation.batch_size
    return MergedEvaluator(loaded.base, loaded.cut, size, loaded.pad, loaded.device)
