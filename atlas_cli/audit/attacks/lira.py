"""Membership inference from shadow runs: the attacker trains with a text and without it, and compares its losses.

The likelihood-ratio attack, online (LiRA; Carlini et al., 2112.03570, section 4). A shadow run repeats the whole run
with its config, so with the same base, adapters, heads, method and mechanisms, and with batches and noise of its own.
Half of the texts in question, drawn anew, are trained on in it beside all other training texts, so that clients have
as many as they had; the next shadow run has the other half. With phi the scaled confidence in a text,

    phi = log(p / (1 - p)),  p = exp(-loss)
    score = log N(phi; mean_in, var_in) - log N(phi; mean_out, var_out)

where phi is that of the run and means are those of the text in shadow runs with it and without it. Below 64 shadow runs
a variance by text would be mostly noise, and one is taken over all texts (section 5). A task without classes has the
mean loss of its tokens for a loss.

What counts is who can be named without being wrong (section 3): beside the AUC stand the shares of members found where
1 % and 0.1 % of others may be taken for members, each with its exact interval. A rate that allows not one of the others
in question is not given: for 0.1 % it takes 1,000 of them (``--examples 2000``, if clients have as many).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.attacks.membership import Question, final_state, losses_by_text, questions
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, Inapplicable, at_few_false_alarms, auc_interval, require_examples
from atlas_cli.audit.shadow_runs import shadow_federation, train_shadow
from atlas_cli.federation.federation import Federation
from atlas_cli.seeding import derive, numpy_generator

BY_TEXT = 64  # shadow runs, from which on each text has variances of its own
LEAST_LOSS = 1e-7  # float32 knows none between it and 0
LEAST_VARIANCE = 1e-12

Array = NDArray[np.float64]


class Attack(BaseAttack):
    """Finds members of the training texts by shadow runs."""

    channel = "adapters"
    knows = (
        "the config, the final adapters and head of each client, all texts but not which of those in question were used"
    )

    def attack(self, evidence: Evidence) -> Figure:
        """The AUC of likelihood ratios between members and as many other texts of each client.

        Raises:
            Inapplicable: no shadow runs were asked for, one cannot be made, or the run did not finish.
        """
        shadows = evidence.shadows
        if not shadows:
            raise Inapplicable(
                "it trains shadow models, each for as long as the run; ask for some with --lira, e.g. 16"
            )
        if evidence.windows_note:
            raise Inapplicable(
                "texts are windows of longer examples: a shadow run without one would be trained on others of the same "
                "example; raise training.max_length so that each example is one text"
            )
        federation, number = final_state(evidence)
        rounds = federation.config.training.rounds
        if number != rounds:
            raise Inapplicable(
                f"shadow models are trained for {rounds} rounds, and the run has done {number}; let it end"
            )
        asked = list(_asked_once(questions(evidence)))
        member = np.concatenate([np.arange(2 * len(q.members)) < len(q.members) for q in asked])
        require_examples(int(member.sum()))  # before anything is trained
        phi = _confidences(federation, asked)
        inside = halves([len(q.members) for q in asked], shadows, federation.config.seed)
        found = []
        for i, chosen in enumerate(inside):
            evidence.tell(f"lira, shadow run {i + 1} of {shadows}")
            found.append(_shadow(evidence, asked, chosen, derive(federation.config.seed, "lira", i)))
        scores = likelihood_ratios(phi, np.array(found), inside)
        interval = auc_interval(scores[member], scores[~member], federation.config.seed)
        what = f"AUC of members against others by likelihood ratio, {shadows} shadow runs, after round {number}"
        rates = at_few_false_alarms(scores[member], scores[~member])
        return self.figure(what, interval, chance=0.5, examples=len(scores), low_rates=rates)


def likelihood_ratios(phi: Array, shadows: Array, inside: NDArray[np.bool_]) -> Array:
    """The likelihood-ratio score of every text.

    Args:
        phi: scaled confidences of the attacked model, (T,).
        shadows: those of the shadow models, (N, T); ``inside``: which texts each was trained on. A text must be inside
            of at least two, and outside of at least two.
    """
    scores = np.zeros_like(phi)
    for sign, mask in ((1, inside), (-1, ~inside)):
        count = mask.sum(0)
        mean = np.where(mask, shadows, 0).sum(0) / count
        squares = np.where(mask, (shadows - mean) ** 2, 0)
        own = squares.sum(0) / (count - 1)
        variance = own if len(shadows) >= BY_TEXT else squares.sum() / (count - 1).sum()
        variance = np.maximum(variance, LEAST_VARIANCE)
        scores += sign * (-0.5 * np.log(variance) - (phi - mean) ** 2 / (2 * variance))
    return scores


def scaled_confidence(losses: Sequence[float]) -> Array:
    """log(p / (1 - p)) of p = exp(-loss): by it confidences of a text over models are about normal (section 4)."""
    loss = np.maximum(np.array(losses), LEAST_LOSS)
    return np.asarray(-loss - np.log(-np.expm1(-loss)))


def halves(counts: Sequence[int], shadows: int, seed: int) -> NDArray[np.bool_]:
    """Which texts each shadow run is trained on, (N, T): of each client's 2 ``counts`` half, then the other half."""
    draw, rows = numpy_generator(seed, "lira-halves"), list[NDArray[np.bool_]]()
    for i in range(shadows):
        fresh = [draw.permutation(2 * count) < count for count in counts] if i % 2 == 0 else [~rows[-1]]
        rows.append(np.concatenate(fresh))
    return np.array(rows)


def _asked_once(asked: Sequence[Question]) -> Iterator[Question]:
    """A text of the common test part is asked of one client alone: another's merged adapter would know it, too."""
    taken: set[int] = set()
    for question in asked:
        others = [text for text in question.others if id(text) not in taken]
        taken |= {id(text) for text in others}
        count = len(others)
        rest = [*question.rest, *question.members[count:]]
        yield replace(question, members=question.members[:count], others=others, rest=rest)


def _shadow(evidence: Evidence, asked: Sequence[Question], inside: NDArray[np.bool_], seed: int) -> Array:
    """Scaled confidences of a shadow run, (T,), trained on the texts in question that are ``inside``."""
    train_texts, first = {}, 0
    for question in asked:
        texts = [*question.members, *question.others]
        chosen = [text for text, used in zip(texts, inside[first:], strict=False) if used]
        train_texts[question.client] = [*question.rest, *chosen]
        first += len(texts)
    federation = shadow_federation(evidence.federation.config, train_texts, seed)
    train_shadow(federation)
    return _confidences(federation, asked)


def _confidences(federation: Federation, asked: Sequence[Question]) -> Array:
    """Of each client's own model in the texts that it is asked of, (T,): members, then others, client by client."""
    losses: list[float] = []
    for question in asked:
        with federation.at_hand([question.client]):
            model = federation.model_of_client(question.client)
            texts = [*question.members, *question.others]
            found = losses_by_text(federation, question.task, texts, model)
            losses += [found[id(text)] for text in texts]
    return scaled_confidence(losses)
