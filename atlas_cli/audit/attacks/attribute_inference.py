"""Attribute inference: a property of each text that no message names, by a classifier of the activations of other text.

A representation tells more of a text than its task asks for (Song and Shmatikov, 1905.11742; Song and Raghunathan,
2004.00053). The adversary has other text whose attribute it knows, makes the activations that a client would send of
it, with the adapters delivered and with the defence in force, and fits ridge regression from their mean and their
largest elements over the tokens of a text to the values of the attribute. ``--attribute COLUMN`` names a column of the
data that the task need not read; without it, labels that stay on the client (``labels: client``) are the attribute.

A value that the adversary's text does not have cannot be found, and counts as missed. Texts without a value are left
out, and so are those of task groups in whose other text the column has no two values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atlas_cli.audit.attacks import ridge_inverter
from atlas_cli.audit.attacks._recovery import Guess, guessed, nearest, training_texts
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.attributes import value_of
from atlas_cli.audit.evidence import UNSPLIT, Evidence, Step, Tokens
from atlas_cli.audit.figures import Figure, Inapplicable, share_interval
from atlas_cli.data.rows import GroupData

DRAWS = 3  # of the attacker's own texts, where the defence draws noise


class Attack(BaseAttack):
    """Finds an attribute of texts."""

    channel = "activations"
    knows = "the frozen model, the adapters delivered, the defence, other text of the task with its attribute"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of texts whose value is found; the floor is the commonest value of the adversary's own text."""
        attribute = Attribute(evidence, column_of(evidence))
        truths: list[tuple[str, str | None]] = []  # task group and value of each text
        for step in evidence.chosen_steps():
            group = evidence.federation.group_of(step.client)
            rows = attribute.data(group).train
            truths += [(group, value_of(rows[text["row"]], attribute.column)) for text in step.batch.features]
        seen, guesses, notes = guessed(evidence, attribute.learn, draws=DRAWS)
        first = torch.cat([torch.tensor([True]), seen.texts[1:] != seen.texts[:-1]])
        found = dict(zip(seen.texts[first].tolist(), guesses[first].tolist(), strict=True))
        hits, common, chance = [], [], []
        for text, (group, value) in enumerate(truths):
            counts = attribute.known[group]
            if value is None or len(counts) < 2:
                continue
            hits.append(float(attribute.names[found[text]] == value))
            common.append(float(counts.most_common(1)[0][0] == value))
            chance.append(1 / len({*counts, *(v for g, v in truths if g == group and v is not None)}))
        if not hits:
            raise Inapplicable(
                f"no task group was attacked in whose held-out texts, which an adversary learns from, "
                f"{attribute.column!r} has two values"
            )
        if lacking := len(truths) - len(hits):
            notes.append(f"{lacking:,} of {len(truths):,} texts are left out: no value, or too few in other text")
        interval, floor = share_interval(hits, [1.0] * len(hits)), sum(common) / len(common)
        what, note = f"{attribute.column} found, share", "; ".join(filter(None, (*notes, evidence.windows_note)))
        mean = sum(chance) / len(chance)
        return self.figure(what, interval, chance=mean, examples=len(hits), floor=floor, note=note)


def column_of(evidence: Evidence) -> str:
    """The column that is asked for; without one, that of the labels that stay on clients.

    Raises:
        Inapplicable: none is asked for, and labels are sent in the clear or are no class a text.
    """
    federation = evidence.federation
    if not federation.split:
        raise Inapplicable(UNSPLIT)
    if evidence.attribute is not None:
        return evidence.attribute
    if federation.config.training.labels != "client":
        raise Inapplicable("no attribute is named; give a column of the data with --attribute")
    if not all(group.task.one_class for group in federation.data.values()):
        raise Inapplicable("labels are not one class a text; give a column of the data with --attribute")
    return "label"


@dataclass
class Attribute:
    """A column of the data, and what the adversary's own texts say of it.

    Attributes:
        names: of all values that the adversary knows; a guess is a place in them.
        known: by task group, how often each value occurs in the adversary's texts.
    """

    evidence: Evidence
    column: str
    names: list[str] = field(default_factory=list)
    known: dict[str, Counter[str]] = field(default_factory=dict)

    def data(self, group: str) -> GroupData:
        """The rows of a task group."""
        return self.evidence.true_labels.data[group].data

    def learn(self, step: Step, began: int, material: Tokens) -> Guess:
        """Fit a classifier of texts; where the adversary's texts have no two values, one that says nothing."""
        group = self.evidence.federation.group_of(step.client)
        own, rows = training_texts(self.evidence, step.client, DRAWS), self.data(group).test
        values = [value_of(rows[text["row"]], self.column) for text in own]
        self.known[group] = Counter(value for value in values if value is not None)
        if len(self.known[group]) < 2:
            return lambda _, hidden, texts: torch.zeros_like(texts)
        self.names += [name for name in sorted(self.known[group]) if name not in self.names]
        has = torch.tensor([value is not None for value in values])
        ids = torch.tensor([self.names.index(value) for value in values if value is not None])
        number = torch.tensor([text["row"] for text in own])[has]  # copies of a text are on one side when it chooses
        values_as_vectors = torch.eye(len(self.names))
        classify = ridge_inverter.fit(
            Tokens(of_texts(material.hidden, material.texts)[has], ids, number), values_as_vectors
        )

        def guess(_: Step, hidden: Tensor, texts: Tensor) -> Tensor:
            place = torch.unique_consecutive(texts, return_inverse=True)[1]
            return nearest(classify(of_texts(hidden, texts)), values_as_vectors)[place]

        return guess


def of_texts(hidden: Tensor, texts: Tensor) -> Tensor:
    """The mean and the largest elements (B, 2 D) over the tokens of each text, of activations (N, D)."""
    parts = hidden.split(torch.unique_consecutive(texts, return_counts=True)[1].tolist())
    return torch.stack([torch.cat([part.mean(0), part.amax(0)]) for part in parts])
