"""Was a text trained on? Its loss under a client's final model tells: what was trained on has a smaller one.

A threshold on the loss (Yeom et al., 1709.01604), whatever the threshold: the AUC between training texts of clients and
texts that they held back (their local test part, or where there is none the test part of their task group, which other
clients' texts may make easier to tell).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from atlas_cli.federation.build import build
from atlas_cli.federation.evaluation import TrainedModel
from atlas_cli.federation.parties import Federation
from atlas_cli.federation.state import restore
from atlas_cli.privacy.evidence import Evidence
from atlas_cli.privacy.figures import Figure, Inapplicable, auc_interval
from atlas_cli.runs.checkpoint import folders, load_newest
from atlas_cli.seeding import numpy_generator
from atlas_cli.tasks._base import BaseTask, Feature

CHANNEL = "adapters"
KNOWS = "the final adapters and head of each client, the texts in question and their labels"


def attack(evidence: Evidence) -> Figure:
    """AUC between members and others, as many of either from each client."""
    if not folders(evidence.run):
        raise Inapplicable("the run has no checkpoint, so its final model is not known")
    federation = build(evidence.federation.config)
    checkpoint, _ = load_newest(evidence.run)
    restore(federation, checkpoint.tensors, checkpoint.state)
    share = max(10, evidence.most // len(federation.clients))
    inside: list[float] = []
    outside: list[float] = []
    for client in federation.clients:
        group = evidence.true_labels.data[federation.group_of(client)]  # others keep theirs, so members must, too
        others = group.local_test[client] or group.test
        count = min(share, len(others), len(group.train[client]))
        model = federation.model_of_client(client)
        draw = numpy_generator(federation.config.seed, "membership", client)
        for texts, losses in ((group.train[client], inside), (others, outside)):
            chosen = [texts[i] for i in draw.permutation(len(texts))[:count]]
            losses += losses_of(federation, group.task, chosen, model)
    value, low, high = auc_interval(-np.array(inside), -np.array(outside), federation.config.seed)
    what = f"AUC of members against others, after round {checkpoint.round}"
    return Figure("membership", what, CHANNEL, KNOWS, value, low, high, 0.5, 1.0, len(inside) + len(outside))


def losses_of(federation: Federation, task: BaseTask, texts: Sequence[Feature], model: TrainedModel) -> list[float]:
    """The loss of every text on its own, in no particular order."""
    found: list[float] = []

    def update(logits: Tensor, labels: Tensor, _: object) -> None:
        for one, truth in zip(logits.split(1), labels.split(1), strict=True):
            found.append(float(task.loss(one, truth)[0]))

    # a task for the evaluator, whose metric keeps each loss
    seen: Any = SimpleNamespace(
        label_tensor=task.label_tensor, metric=lambda: SimpleNamespace(update=update, compute=lambda: {})
    )
    federation.evaluator(seen, texts, model)
    return found
