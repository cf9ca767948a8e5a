"""Canaries: are sequences that were planted in the training data learnt by heart? (Carlini et al., 1802.08232)

A run is trained with the config of the audited one, in which some texts of each client are replaced by sequences of
random tokens; a classifier's have a random class, which nothing but memory can tell. Other sequences drawn alike are
planted nowhere. Under the final model of its client a planted sequence has a rank among 127 of these, by how much
training has lowered its loss, and by it an exposure (section 4.2):

    exposure = log2(128) - log2(rank)

7 bits if it is told from all others; at random log2(128) - log2(128!) / 128, about 1.4 bits.

Each planted sequence has a twin that a fair coin might have planted instead. How often the planted one is told from its
twin gives a lower bound on epsilon from this one run (Steinke, Nasr and Jagielski, 2305.08846), which stands beside the
upper bound of ``privacy.examples``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.attacks.membership import losses_by_text
from atlas_cli.audit.epsilon_gap import EpsilonGap, guesses_bound
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, Inapplicable, require_examples, share_interval
from atlas_cli.audit.shadow_runs import shadow_federation, train_shadow
from atlas_cli.federation.federation import Federation
from atlas_cli.seeding import derive, numpy_generator
from atlas_cli.tasks.contract import BaseTask, Feature

REFERENCES = 127  # sequences that are planted nowhere, for each client
BEST = math.log2(REFERENCES + 1)
CHANCE = BEST - math.lgamma(REFERENCES + 2) / math.log(2) / (REFERENCES + 1)
LEAST_TOKENS = 8  # to draw from: of fewer, sequences would be much alike

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Planting:
    """The sequences of a client: those that are planted, others drawn alike, and its training texts with the former."""

    client: str
    task: BaseTask
    planted: list[Feature]
    others: list[Feature]
    texts: list[Feature]


class Attack(BaseAttack):
    """Tells planted sequences from others that were drawn alike."""

    channel = "adapters"
    knows = "the config, adapters and head of each client before and after, and the sequences, not which were planted"

    def attack(self, evidence: Evidence) -> Figure:
        """The mean exposure of planted sequences, in bits.

        Raises:
            Inapplicable: no canaries were asked for, the texts take none, or the run with them ended early.
        """
        if not evidence.canaries:
            raise Inapplicable(
                "it trains a run with planted sequences, for as long as the run; ask for some with --canaries, e.g. 100"
            )
        if evidence.windows_note:
            raise Inapplicable(
                "texts are windows of longer examples, and a canary is one text; raise training.max_length so that "
                "each example is one text"
            )
        plantings = _plantings(evidence)
        require_examples(sum(len(each.planted) for each in plantings), "planted sequences")
        config = evidence.federation.config
        seed = derive(config.seed, "canary")
        federation = shadow_federation(config, {each.client: each.texts for each in plantings}, seed)
        before = [_losses(federation, each) for each in plantings]
        evidence.tell("canary, a run with planted sequences")
        train_shadow(federation)
        after = [_losses(federation, each) for each in plantings]
        gains = [start - end for start, end in zip(before, after, strict=True)]
        found = [exposures(gain, len(each.planted)) for gain, each in zip(gains, plantings, strict=True)]
        shares = np.concatenate(found) / BEST
        value, low, high = (BEST * end for end in share_interval(shares.tolist(), [1.0] * len(shares)))
        right = sum(told_from_twins(gain, len(each.planted)) for gain, each in zip(gains, plantings, strict=True))
        gap = epsilon_gap(federation, right, len(shares))
        what = f"exposure of planted sequences in bits, mean, after {config.training.rounds} rounds"
        note = f"{right} of {len(shares)} are told from a twin; {gap.in_words()}"
        if len(shares) < evidence.canaries:
            note += (
                f"; {evidence.canaries} were asked for, but a client takes no more than {REFERENCES}, and no more than "
                "half its texts"
            )
        interval = (value, low, min(high, BEST))
        return self.figure(what, interval, chance=CHANCE, best=BEST, examples=len(shares), note=note, gap=gap)


def exposures(gains: Array, planted: int) -> Array:
    """The exposure of each planted sequence, (K,), among all that were not.

    Args:
        gains: by how much the loss of each has fallen: of the ``planted`` first K, then of others.
    """
    others = gains[planted:]
    above = (others > gains[:planted, None]).sum(1) + (others == gains[:planted, None]).sum(1) / 2
    return np.asarray(np.log2(len(others) + 1) - np.log2(1 + above))


def told_from_twins(gains: Array, planted: int) -> int:
    """How many of the ``planted`` first sequences have gained more than the other of their pair; ties are wrong."""
    return int((gains[:planted] > gains[planted : 2 * planted]).sum())


def epsilon_gap(federation: Federation, right: int, guesses: int) -> EpsilonGap:
    """The lower bound of so many right guesses beside the epsilon of an example in adapters and heads."""
    config, account = federation.config, federation.protection.account
    delta, upper = config.privacy.delta, None
    if config.privacy.examples is not None:
        upper = max(account.epsilon("updates", group, config.training.rounds) for group in config.task_groups)
        upper = upper if math.isfinite(upper) else None
    why = "" if upper is not None else "no noise on gradients of examples (privacy.examples)"
    return EpsilonGap("an example", delta, guesses_bound(right, guesses, delta), upper, why)


def _plantings(evidence: Evidence) -> list[Planting]:
    federation, found = evidence.federation, []
    share = math.ceil(evidence.canaries / len(federation.clients))
    for client in federation.clients:
        group = evidence.true_labels.data[federation.group_of(client)]
        train = group.train[client]
        count = min(share, len(train) // 2, REFERENCES)
        drawn = _sequences(group.task, group.test, count + REFERENCES, federation.config.seed, client)
        draw = numpy_generator(federation.config.seed, "canary", client)
        planted = [drawn[i] for i in draw.permutation(len(drawn))[:count]]
        chosen = {id(feature) for feature in planted}
        order = draw.permutation(len(train))
        kept = [train[i] for i in sorted(order[count:])]
        for feature, i in zip(planted, order, strict=False):  # a canary counts as the example that it replaces
            feature["row"] = train[i]["row"]
        others = [feature for feature in drawn if id(feature) not in chosen]
        found.append(Planting(client, group.task, planted, others, [*kept, *planted]))
    return found


def _sequences(task: BaseTask, public: Sequence[Feature], count: int, seed: int, client: str) -> list[Feature]:
    """Sequences as long as other texts of the task, of random tokens of these; what all texts have stays in its place.

    Raises:
        Inapplicable: the task has no such labels, or these texts too few tokens.
    """
    if not (task.causal_only or task.one_class):
        raise Inapplicable("canaries are for language modelling and for one class a text")
    common = set.intersection(*(set(feature["input_ids"]) for feature in public))
    tokens = sorted({token for feature in public for token in feature["input_ids"]} - common)
    if len(tokens) < LEAST_TOKENS:
        raise Inapplicable(f"other texts of the task have {len(tokens)} tokens to draw sequences from")
    draw, found = numpy_generator(seed, "canary-sequences", client), []
    for _ in range(count):
        like = public[int(draw.integers(len(public)))]
        ids = [token if token in common else tokens[int(draw.integers(len(tokens)))] for token in like["input_ids"]]
        labels = ids if task.causal_only else int(draw.integers(len(task.classes)))
        kept = {name: like[name] for name in ("token_type_ids",) if name in like}
        found.append(cast(Feature, {**kept, "input_ids": ids, "labels": labels, "truncated": False}))
    return found


def _losses(federation: Federation, planting: Planting) -> Array:
    """Losses under the client's model: of planted sequences, then of others."""
    texts = [*planting.planted, *planting.others]
    with federation.at_hand([planting.client]):
        found = losses_by_text(federation, planting.task, texts, federation.model_of_client(planting.client))
    return np.array([found[id(text)] for text in texts])
