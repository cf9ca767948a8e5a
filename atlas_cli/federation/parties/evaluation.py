"""Evaluation through the split, without autograd, in large batches of real tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from atlas_cli.data.collate import Batch, collate, evaluation_batches
from atlas_cli.federation.parties.party import Halves, TrainedModel, as_inputs
from atlas_cli.federation.parties.untrained_logits import Pass, UntrainedLogits
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.denoiser import AtTheCut, denoised, denoises
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.rotary import frequencies_change_at
from atlas_cli.models.halves.split import run_half
from atlas_cli.plugin_code import are_foreign
from atlas_cli.tasks.contract import BaseTask, Feature, Metric
from atlas_cli.workers import Workers, side_by_side

CPU_TOKENS = 512  # a pass of more leaves the caches of a CPU core, and pads more: a tenth slower


class Evaluator:
    """Runs test parts through both halves of the model.

    Args:
        base: the frozen base.
        cut: the block at which it is split.
        batch_size: the most examples a pass, on a CPU of ``CPU_TOKENS`` tokens at most; ``pad``: what to pad with.
        compiled: blocks of the base are; their passes are computed one at a time.
    """

    def __init__(
        self, base: FrozenBase, cut: int, batch_size: int, pad: int, device: torch.device, compiled: bool = False
    ) -> None:
        self.batch_size, self.pad, self.device, self.compiled = batch_size, pad, device, compiled
        self.max_tokens = CPU_TOKENS if device.type == "cpu" else None
        self.halves = Halves(base, base, cut)
        self.untrained: UntrainedLogits | None = None  # while models are as they were built
        # what crosses the cut, by batch and head
        self.sent: Callable[[Tensor, Tensor, int, nn.Module], Tensor] | None = None

    def __call__(self, task: BaseTask, features: Sequence[Feature], model: TrainedModel) -> dict[str, float]:
        """The task's metrics over ``features``."""
        return task.scores(self.measure(task, features, model))

    @torch.no_grad()
    def measure(
        self, task: BaseTask, features: Sequence[Feature], model: TrainedModel, metric: Metric | None = None
    ) -> Metric:
        """The accumulator after all ``features``: the one given, else the task's."""
        metric = task.metric() if metric is None else metric
        numbers = self.batches(features, model)
        batches: Iterable[Batch] = (collate(task, [features[i] for i in rows], self.pad) for rows in numbers)
        passes = self.passes(model)
        if self.untrained is not None and self.sent is None:
            batches = [*batches]
            passes = self.untrained.around(passes, model.halves or self.halves, model, batches)
        with passes as logits_of, closing(Workers(self._at_once(model))) as workers:
            computed = workers.in_order(lambda _, each: (each[1], *logits_of(each[1], each[0])), enumerate(batches))
            for batch, logits, finite in computed:
                metric.diverged = metric.diverged or not finite
                metric.update(logits, batch.labels.to(self.device), batch.features)
        return metric

    def _at_once(self, model: TrainedModel) -> int:
        """One pass at a time where one may change what another reads: noise by the number of the pass, rotary
        frequencies that depend on the longest text, compiled blocks, code of other packages."""
        halves = model.halves or self.halves
        changes = frequencies_change_at(halves.lower.config) is not None
        if self.compiled or changes or self.sent is not None or are_foreign(model.computed_by(halves)):
            return 1
        return side_by_side(self.device)

    def sent_of(self, model: TrainedModel) -> Callable[[Tensor, Tensor, int], Tensor] | None:
        """What crosses the cut of a model, of activations, mask and number of the batch; None: these activations."""
        if (sent := self.sent) is None:
            return None
        return lambda activations, mask, number: sent(activations, mask, number, model.head)

    def batches(self, features: Sequence[Feature], model: TrainedModel) -> Iterator[list[int]]:
        """The numbers of the features of each pass."""
        # a text's figures are those of the text, whichever others it is evaluated with
        alone_above = frequencies_change_at((model.halves or self.halves).lower.config)
        return evaluation_batches(features, self.batch_size, self.max_tokens, alone_above)

    @contextmanager
    def passes(self, model: TrainedModel) -> Iterator[Pass]:
        """Inside the block, a function that gives the logits of a batch with its number, and whether all are finite."""
        halves = model.halves or self.halves

        def logits_of(batch: Batch, number: int) -> tuple[Tensor, bool]:
            inputs, mask = as_inputs(batch.inputs(), self.device)
            computed = sent = run_half(lower_half, mask, **inputs)
            if self.sent is not None:
                sent = self.sent(computed, mask, number, model.head)
            cut = None
            if sent is not computed and denoises(model.head):
                cut = AtTheCut.of(sent, computed * mask.unsqueeze(-1).to(computed.dtype))
            hidden = run_half(upper_half, mask, inputs_embeds=sent.to(halves.upper.dtype))
            logits = model.head(denoised(model.head, hidden, cut), mask)
            smaller = min(hidden, logits, key=torch.numel)  # logits may be over a whole vocabulary
            return logits, bool(torch.isfinite(smaller).all())

        with attached_halves(model, halves) as (lower_half, upper_half):
            yield logits_of


@contextmanager
def attached_halves(model: TrainedModel, halves: Halves) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The lower and the upper half; inside the block the model's adapters act in them."""
    lower, upper, cut = halves
    model.adapters.train(False)
    below = model.adapters.acting(lambda path: layer_of(path, lower.family) < cut)
    above = model.adapters.acting(lambda path: layer_of(path, lower.family) >= cut)
    with below.attached(lower.model), above.attached(upper.model):
        yield lower.client_half(cut), upper.server_half(cut)


def mean_metrics(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The plain mean over clients, where a group has no model of its own."""
    return {name: sum(m[name] for m in each) / len(each) for name in each[0]}
