"""What attacks share that recover tokens from activations: the search, the inverters' material, and the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas_cli.audit.attacks.contract import BaseAttack
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


def inverted(evidence: Evidence, fit: Callable[[Tokens, Tensor], Invert]) -> tuple[Tokens, Tensor]:
    """What was seen, and token ids guessed by inverters trained on public text that passed the same half.

    One inverter for each task group, split layer and round, on activations made with the adapters that the server
    delivered to the first client of them that was recorded, and with the defence in force.
    """
    inverters: dict[tuple[str, int, int], Invert] = {}
    parts, guesses, texts = [], [], 0
    for step in evidence.chosen():
        key = evidence.federation.group_of(step.client), evidence.cut(step.client), step.round
        if key not in inverters:
            material = evidence.made(step.client, step.round, evidence.public(step.client)[:PUBLIC_TEXTS])
            inverters[key] = fit(material, evidence.embedding)
        part = evidence.tokens(step, texts)
        texts += step.batch.n_examples
        parts.append(part)
        guesses.append(nearest(inverters[key](part.hidden), evidence.embedding))
    return Tokens.joined(parts), torch.cat(guesses)


def kept_back(evidence: Evidence) -> str:
    """What an inverter's material lacks of what clients compute with; empty where it lacks nothing."""
    parts, later = evidence.deliveries.unknown(), any(step.round > 1 for step in evidence.chosen())
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
    common = commonest([f for step in evidence.chosen() for f in evidence.public(step.client)])
    floor = float((seen.ids == common).double().mean())
    notes = "; ".join(filter(None, (note, evidence.windowed)))
    what, chance = "tokens recovered, share", 1 / len(evidence.embedding)
    return attack.figure(what, interval, chance=chance, examples=count, floor=floor, note=notes)


def commonest(features: Sequence[Feature]) -> int:
    """The token id that occurs most."""
    return Counter(token for f in features for token in f["input_ids"]).most_common(1)[0][0]
