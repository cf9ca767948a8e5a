"""A trained model as one piece: adapters folded into the weights, and no split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.evaluation import Evaluator, Pass
from atlas_cli.federation.parties.party import TrainedModel, as_inputs
from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.models.frozen.own_modules import own_modules
from atlas_cli.models.halves.split import run_half


@torch.no_grad()
def merged_weights(loaded: LoadedModel) -> dict[str, Tensor]:
    """The base's weights by name, with W + s B A, summed in float32, where there is an adapter; none is quantised."""
    model = loaded.base.model
    weights = dict(model.state_dict())
    for path, adapter in loaded.model.adapters.adapters.items():
        update = adapter.scaling * (adapter.lora_B @ adapter.lora_A)
        weight = weights[f"{path}.weight"]
        if isinstance(model.get_submodule(path), Conv1D):
            update = update.T
        weights[f"{path}.weight"] = (weight.float() + update).to(weight.dtype)
    return weights


class MergedEvaluator(Evaluator):
    """Runs examples through the whole model, in the base's dtype and without noise, as it is deployed in one place.

    No weight is quantised.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        loaded = loaded.unquantized()
        size = loaded.config.evaluation.batch_size
        super().__init__(loaded.base, loaded.cut, size, loaded.pad, loaded.device)
        self.whole = own_modules(loaded.base.model)
        self.whole.load_state_dict(merged_weights(loaded), assign=True)

    @contextmanager
    def passes(self, model: TrainedModel) -> Iterator[Pass]:
        """As the split's, without a cut."""

        def logits_of(batch: Batch, number: int) -> tuple[Tensor, bool]:
            inputs, mask = as_inputs(batch.inputs(), self.device)
            hidden = run_half(self.whole, mask, **inputs)
            return model.head(hidden, mask), bool(torch.isfinite(hidden).all())

        yield logits_of
