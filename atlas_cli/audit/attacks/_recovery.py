"""What attacks that recover tokens from activations share: the search, the training of inverters, and the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.deliveries import UnknownChange
from atlas_cli.audit.evidence import Evidence, Tokens
from atlas_cli.audit.figures import Figure, Inapplicable, share_interval
from atlas_cli.tasks.contract import Feature

CHUNK = 1024  # activations compared with the whole vocabulary at once
PUBLIC_TEXTS = 384  # that an inverter is trained on

Invert = Callable[[Tensor], Tensor]


def nearest(vectors: Tensor, embedding: Tensor) -> Tensor:
    """The token ids (N,) whose rows of ``embedding`` (V, D) have the largest cosine with ``vectors`` (N, D)."""
    if vectors.shape[1] != embedding.shape[1]:
        raise Inapplicable(f"activations have {vectors.shape[1]} elements and embeddings {embedding.shape[1]}")
    rows = F.normalize(embedding, dim=1).T
    return torch.cat([(chunk @ rows).argmax(1) for chunk in vectors.float().split(CHUNK)])


def recovery_by_inverters(attack: BaseAttack, evidence: Evidence, fit: Callable[[Tokens, Tensor], Invert]) -> Figure:
    """The share of tokens recovered by inverters that are trained on public text which passed the same half.

    There is one inverter for each task group, split layer and round. It is trained on activations that are computed
    with the adapters that the server delivered to the first recorded client of these, and with the defence in force.
    Where what was delivered cannot be told from its messages, the adapters are those with which round 1 began.
    """
    inverters: dict[tuple[str, int, int], Invert] = {}
    unknown: dict[str, None] = {}
    parts, guesses, texts = [], [], 0
    for step in evidence.chosen_steps():
        key = evidence.federation.group_of(step.client), evidence.cut(step.client), step.round
        if key not in inverters:
            began = step.round
            try:
                evidence.party(step.client, began)
            except UnknownChange as reason:
                began = 1
                unknown[f"{reason}: inverters of later rounds had the adapters with which round 1 began"] = None
            texts_of_its_own = evidence.public_texts(step.client)[:PUBLIC_TEXTS]
            material = evidence.attacker_material(step.client, step.round, texts_of_its_own, began=began)
            inverters[key] = fit(material, evidence.embedding)
        part = evidence.tokens(step, texts)
        texts += step.batch.n_examples
        parts.append(part)
        guesses.append(nearest(inverters[key](part.hidden), evidence.embedding))
    note = "; ".join(filter(None, (_missing_parts(evidence), *unknown)))
    return recovery(attack, evidence, Tokens.joined(parts), torch.cat(guesses), note)


def _missing_parts(evidence: Evidence) -> str:
    """A note on the parts of adapters that inverters cannot know; empty if they know all."""
    parts, later = evidence.deliveries.unknown(), any(step.round > 1 for step in evidence.chosen_steps())
    if not parts or not later:
        return ""
    return f"clients train {' and '.join(parts)} that nobody delivers; inverters had them as they were at set-up"


def recovery(attack: BaseAttack, evidence: Evidence, seen: Tokens, guesses: Tensor, note: str = "") -> Figure:
    """The share of tokens recovered, with its interval over texts."""
    right = (guesses.cpu() == seen.ids).double()
    count = int(seen.texts.max()) + 1
    hits = torch.zeros(count, dtype=torch.float64).index_add_(0, seen.texts, right)
    sizes = torch.bincount(seen.texts, minlength=count)
    interval = share_interval(hits.tolist(), sizes.tolist())
    common = most_common_token([f for step in evidence.chosen_steps() for f in evidence.public_texts(step.client)])
    floor = float((seen.ids == common).double().mean())
    notes = "; ".join(filter(None, (note, evidence.windows_note)))
    what, chance = "tokens recovered, share", 1 / len(evidence.embedding)
    return attack.figure(what, interval, chance=chance, examples=count, floor=floor, note=notes)


def most_common_token(features: Sequence[Feature]) -> int:
    """The token id that occurs most often."""
    return Counter(token for f in features for token in f["input_ids"]).most_common(1)[0][0]
