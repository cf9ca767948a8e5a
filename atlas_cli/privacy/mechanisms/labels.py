"""Label differential privacy by k-ary randomised response (Warner, 1965; Kairouz et al., 1407.1338).

A training label stays what it is with probability a = e^eps / (e^eps + k - 1); else it becomes one of the other k - 1
classes. It is drawn once an example, for all sequences that are made of it, before training, so that epochs, rounds and
loss of messages cost nothing more. Local and group test parts keep their labels: they are not sent. Neighbours differ
in the label of one example; the text is not covered.

The forward correction (Patrini et al., 1609.03683) takes the loss of what was observed under the model of what is true:
-log(b + (a - b) p_y), b = (1 - a) / (k - 1), whose minimiser is that of the loss on true labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.config.schema.privacy import LabelsConfig
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.privacy.account.accounting import keep_probability
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import numpy_generator
from atlas_cli.tasks import sequence_classification
from atlas_cli.tasks.contract import BaseTask, Feature, example_numbers


class Mechanism(BaseMechanism):
    """Randomises training labels by k-ary randomised response."""

    channel = "labels"
    unit = "label of an example"
    protects = "the label of a training example, from everybody"
    Options = LabelsConfig


def randomise(groups: Mapping[str, PreparedGroup], config: LabelsConfig, seed: int) -> dict[str, PreparedGroup]:
    """The same groups with randomised training labels; nothing else changes."""
    result = {}
    for name, group in groups.items():
        keep, k = keep_probability(config.epsilon, len(group.task.classes)), len(group.task.classes)
        train = {client: _randomised(features, keep, k, seed, client) for client, features in group.train.items()}
        result[name] = replace(group, train=train)
    return result


def _randomised(features: Sequence[Feature], keep: float, k: int, seed: int, client: str) -> list[Feature]:
    generator = numpy_generator(seed, "privacy-labels", client)
    numbers = example_numbers(features)
    examples = len(set(numbers))
    stays, other = (generator.random(examples) < keep).tolist(), generator.integers(1, k, examples).tolist()
    result = []
    for feature, number in zip(features, numbers, strict=True):
        label, same, shift = feature["labels"], stays[number], other[number]
        assert isinstance(label, int)
        result.append(Feature(**{**feature, "labels": label if same else (label + shift) % k}))
    return result


class CorrectedTask(sequence_classification.Task):
    """A task whose training loss is corrected for the randomisation of labels."""

    def __init__(self, task: BaseTask, epsilon: float) -> None:
        super().__init__(task.classes, task.pooling)
        self.epsilon = epsilon
        self.keep = keep_probability(epsilon, len(task.classes))

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """The mean of -log(b + (a - b) p_y) for logits (B, C) and labels (B,), and B."""
        other = self.keep * math.exp(-self.epsilon)
        more = -self.keep * math.expm1(-self.epsilon)  # a - b; above 0 however small epsilon is
        log_p_B = F.log_softmax(logits.float(), -1).gather(1, labels.unsqueeze(1)).squeeze(1)
        if other == 0:
            return -log_p_B.mean(), len(labels)
        base = torch.full_like(log_p_B, math.log(other))
        return -torch.logaddexp(base, math.log(more) + log_p_B).mean(), len(labels)
