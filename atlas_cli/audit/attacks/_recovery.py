"""What attacks that recover tokens from activations share: the search, the training of inverters, and the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.deliveries import UnknownChange
from atlas_cli.audit.evidence import Evidence, Step, Tokens
from atlas_cli.audit.figures import Figure, Inapplicable, share_interval
from atlas_cli.audit.rouge import rouge_l
from atlas_cli.tasks.contract import Feature, original_ids

CHUNK = 1024  # activations compared with the whole vocabulary at once
PUBLIC_TEXTS = 384  # that an inverter is trained on

Invert = Callable[[Tensor], Tensor]
Guess = Callable[[Step, Tensor, Tensor], Tensor]  # ids (N,) from a step's activations (N, D) and the text of each (N,)
Learn = Callable[[Step, int, Tokens], Guess]


def nearest(vectors: Tensor, embedding: Tensor) -> Tensor:
    """The token ids (N,) whose rows of ``embedding`` (V, D) have the largest cosine with ``vectors`` (N, D)."""
    if vectors.shape[1] != embedding.shape[1]:
        raise Inapplicable(f"activations have {vectors.shape[1]} elements and embeddings {embedding.shape[1]}")
    rows = F.normalize(embedding, dim=1).T
    return torch.cat([(chunk @ rows).argmax(1) for chunk in vectors.float().split(CHUNK)])


def recovery_by_inverters(attack: BaseAttack, evidence: Evidence, fit: Callable[[Tokens, Tensor], Invert]) -> Figure:
    """The share of tokens recovered by maps from activations (N, D) to embeddings (N, D), as ``recovery_by_training``.

    Args:
        fit: makes a map of the attacker's own tokens and the embedding (V, D).
    """

    def learn(_: Step, began: int, material: Tokens) -> Guess:
        invert = fit(material, evidence.embedding)
        return lambda _, hidden, texts: nearest(invert(hidden), evidence.embedding)

    return recovery_by_training(attack, evidence, learn)


def recovery_by_training(
    attack: BaseAttack, evidence: Evidence, learn: Learn, *, most: int | None = None, draws: int = 1, note: str = ""
) -> Figure:
    """The share of tokens recovered by what is trained on public text, as ``guessed``.

    Args:
        note: whatever a reader must know of this attack.
    """
    seen, guesses, notes = guessed(evidence, learn, most=most, draws=draws)
    return recovery(attack, evidence, seen, guesses, "; ".join(filter(None, (note, *notes))))


def guessed(
    evidence: Evidence, learn: Learn, *, most: int | None = None, draws: int = 1
) -> tuple[Tokens, Tensor, list[str]]:
    """What is guessed of each token (N,), by what is trained on public text which passed the same half; with notes.

    It is trained once for each task group, split layer and round, on activations that are computed with the adapters
    that the server delivered to the first recorded client of these, and with the defence in force. Where what was
    delivered cannot be told from its messages, the adapters are those with which round 1 began.

    Args:
        learn: trains, given the first step, the round whose adapters are known, and the attacker's own tokens, which
            are those of ``training_texts``.
        most: the number of texts attacked; None: all that the audit looks at.
        draws: how often the attacker's own texts are sent, where the defence draws noise: anew each time.
    """
    guesses_of: dict[tuple[str, int, int], Guess] = {}
    unknown: dict[str, None] = {}
    parts, guesses, texts = [], [], 0
    for step in evidence.chosen_steps(most):
        key = evidence.federation.group_of(step.client), evidence.cut(step.client), step.round
        if key not in guesses_of:
            began = step.round
            try:
                evidence.party(step.client, began)
            except UnknownChange as reason:
                began = 1
                unknown[f"{reason}: inverters of later rounds had the adapters with which round 1 began"] = None
            own = training_texts(evidence, step.client, draws)
            material = evidence.attacker_material(step.client, step.round, own, began=began)
            guesses_of[key] = learn(step, began, material)
        part = evidence.tokens(step, texts)
        texts += step.batch.n_examples
        parts.append(part)
        guesses.append(guesses_of[key](step, part.hidden, part.texts))
    notes = [note for note in (_missing_parts(evidence), *unknown) if note]
    return Tokens.joined(parts), torch.cat(guesses), notes


def training_texts(evidence: Evidence, client: str, draws: int = 1) -> list[Feature]:
    """The attacker's own texts against a client; where the defence draws noise, each ``draws`` times."""
    privacy = evidence.federation.config.privacy
    times = draws if privacy.activations is not None or privacy.mid is not None else 1
    return [text for text in evidence.public_texts(client)[:PUBLIC_TEXTS] for _ in range(times)]


def _missing_parts(evidence: Evidence) -> str:
    """A note on the parts of adapters that inverters cannot know; empty if they know all."""
    parts, later = evidence.deliveries.unknown(), any(step.round > 1 for step in evidence.chosen_steps())
    if not parts or not later:
        return ""
    return f"clients train {' and '.join(parts)} that nobody delivers; inverters had them as they were at set-up"


def recovery(attack: BaseAttack, evidence: Evidence, seen: Tokens, guesses: Tensor, note: str = "") -> Figure:
    """The share of tokens recovered at their positions, and ROUGE-L, each with its interval over texts."""
    right = (guesses.cpu() == seen.ids).double()
    count = int(seen.texts.max()) + 1
    hits = torch.zeros(count, dtype=torch.float64).index_add_(0, seen.texts, right)
    sizes = torch.bincount(seen.texts, minlength=count)
    interval = share_interval(hits.tolist(), sizes.tolist())
    common = most_common_token([f for step in evidence.chosen_steps() for f in evidence.public_texts(step.client)])
    floor = float((seen.ids == common).double().mean())
    pairs = zip(guesses.cpu().split(sizes.tolist()), seen.ids.split(sizes.tolist()), strict=True)
    in_order = [rouge_l(found.tolist(), truth.tolist()) for found, truth in pairs]
    rouge = share_interval(in_order, [1.0] * count)
    notes = "; ".join(filter(None, (note, evidence.windows_note)))
    what, chance = "tokens recovered, share", 1 / len(evidence.embedding)
    return attack.figure(what, interval, chance=chance, examples=count, floor=floor, note=notes, rouge_l=rouge)


def most_common_token(features: Sequence[Feature]) -> int:
    """The token id that occurs most often."""
    return Counter(token for f in features for token in original_ids(f)).most_common(1)[0][0]
