"""Membership inference from losses: a text that was trained on has a smaller loss under a client's final model.

A threshold on the loss (Yeom et al., 1709.01604), whatever the threshold: the AUC between training texts of clients and
texts that they held back (their local test part, or where there is none the test part of their task group, which other
clients' texts may make easier to tell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, Inapplicable, at_few_false_alarms, auc_interval
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.party import TrainedModel
from atlas_cli.runs.checkpoint import folders, load_newest
from atlas_cli.seeding import numpy_generator
from atlas_cli.tasks.contract import BaseTask, Feature, Metric


@dataclass(frozen=True)
class Question:
    """Training texts of a client, as many texts that it was not trained on, and its other training texts."""

    client: str
    task: BaseTask
    members: list[Feature]
    others: list[Feature]
    rest: list[Feature]


class Attack(BaseAttack):
    """Finds members of the training texts by a threshold on the loss."""

    channel = "adapters"
    knows = "the final adapters and head of each client, the texts in question and their labels"

    def attack(self, evidence: Evidence) -> Figure:
        """The AUC of losses between members and as many other texts of each client."""
        federation, number = final_state(evidence)
        inside: list[float] = []
        outside: list[float] = []
        for question in questions(evidence):
            with federation.at_hand([question.client]):
                model = federation.model_of_client(question.client)
                for texts, losses in ((question.members, inside), (question.others, outside)):
                    losses += losses_of(federation, question.task, texts, model)
        positive, negative = -np.array(inside), -np.array(outside)
        interval = auc_interval(positive, negative, federation.config.seed)
        what, n = f"AUC of members against others, after round {number}", len(inside) + len(outside)
        rates, note = at_few_false_alarms(positive, negative), evidence.windows_note
        return self.figure(what, interval, chance=0.5, examples=n, note=note, low_rates=rates)


def final_state(evidence: Evidence) -> tuple[Federation, int]:
    """The federation after the last round that has a checkpoint, and that round.

    Raises:
        Inapplicable: the run has no checkpoint.
    """
    if not folders(evidence.run):
        raise Inapplicable("the run has no checkpoint, so its final model is not known")
    federation = build(evidence.federation.config)
    checkpoint, _ = load_newest(evidence.run)
    RunState(federation).restore(checkpoint.tensors, checkpoint.state, checkpoint.name)
    return federation, checkpoint.round


def questions(evidence: Evidence) -> list[Question]:
    """The question for each client, with about ``Evidence.most`` texts in all."""
    federation, found = evidence.federation, []
    share = max(10, evidence.most // len(federation.clients))
    for client in federation.clients:
        group = evidence.true_labels.data[federation.group_of(client)]  # others keep theirs, so members must, too
        others, train = group.local_test[client] or group.test, group.train[client]
        count = min(share, len(others), len(train))
        draw = numpy_generator(federation.config.seed, "membership", client)
        inside, outside = (draw.permutation(len(texts)) for texts in (train, others))
        chosen = [train[i] for i in inside[:count]], [others[i] for i in outside[:count]]
        found.append(Question(client, group.task, *chosen, [train[i] for i in inside[count:]]))
    return found


def losses_of(federation: Federation, task: BaseTask, texts: Sequence[Feature], model: TrainedModel) -> list[float]:
    """The loss of each text by itself, in no particular order."""
    return list(losses_by_text(federation, task, texts, model).values())


def losses_by_text(
    federation: Federation, task: BaseTask, texts: Sequence[Feature], model: TrainedModel
) -> dict[int, float]:
    """The loss of each text by itself, by the identity of the text."""
    if task.together:
        raise Inapplicable("the loss holds several texts against each other")
    losses = _Losses(task)
    federation.evaluator.measure(task, texts, model, losses)
    return losses.found


class _Losses(Metric):
    """Keeps the loss of each text by its identity, in ``found``."""

    def __init__(self, task: BaseTask) -> None:
        self.task = task
        self.found: dict[int, float] = {}

    def update(self, logits: Tensor, labels: Tensor, features: Sequence[Feature]) -> None:
        for one, truth, text in zip(logits.split(1), labels.split(1), features, strict=True):
            self.found[id(text)] = float(self.task.loss(one, truth)[0])

    def compute(self) -> dict[str, float]:
        return {}
