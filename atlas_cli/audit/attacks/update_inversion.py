"""What one client reads of another's texts in what it is delivered: the others' update, taken out of the merge.

A client knows what it sent, what it is delivered, and the weights. Where merges are means of factors (``zero-pad``,
``rolora``) the mean of the others' updates is what is left: with two clients of equal rank exactly what the other one
sent, with more their mean. Its A is then tried for spans as ``dager`` does: at each position the guess is the token
whose input to the lowest adapted layer lies in the span of the update to the largest share. One text is guessed for an
update; where it was made of several, or of more tokens than the rank, guesses are of whichever fits.

The gradient at another client's cut is not known to a client, so that gradients are not matched as in ``tag``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_cli.audit.attacks._client_gradients import require_plain
from atlas_cli.audit.attacks._others_updates import OthersUpdate, others_updates
from atlas_cli.audit.attacks._recovery import recovery
from atlas_cli.audit.attacks._span import candidates, lowest_adapted, span_of
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Step, Tokens, tokens_of
from atlas_cli.audit.figures import Figure, Inapplicable, require_examples

ROUNDINGS = 16.0  # of A, which the recovered update has at most: a difference of differences, by 1 - w


class Attack(BaseAttack):
    """Recovers tokens of other clients from deliveries."""

    channel = "deliveries"
    knows = "the frozen model, its own updates, the weights, who takes part, the longest text"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens of other clients recovered by a client, position by position.

        Raises:
            Inapplicable: merges cannot be taken apart, or an update is no plain gradient.
        """
        sends_A = "A" in evidence.federation.aggregator.method.SENT
        require_plain(evidence, {"a method to which clients send A": sends_A})
        steps = {(s.round, s.client): s for s in evidence.steps if s.number == 0}
        pairs = [(u, steps[u.round, c]) for u in others_updates(evidence) for c in u.clients if (u.round, c) in steps]
        pairs = [(update, step) for update, step in pairs if len(span(evidence, update))][: evidence.most]
        if not pairs:
            raise Inapplicable("no round was recorded in which A moves; in the first B is 0, and it does not")
        require_examples(sum(step.batch.n_examples for _, step in pairs), "texts")
        guesses = guessed(evidence, [update for update, _ in pairs], max(s.batch.input_ids.shape[1] for _, s in pairs))
        found: list[tuple[Tokens, Tensor]] = []
        texts = 0
        for (_, step), guess in zip(pairs, guesses, strict=True):
            found.append(_scored(step, guess, texts))
            texts += step.batch.n_examples
        most = max(len(update.clients) for update, _ in pairs)
        note = "of two clients each" if most == 1 else f"updates are means of up to {most} others"
        tokens, ids = zip(*found, strict=True)
        return recovery(self, evidence, Tokens.joined(tokens), torch.cat(ids), note)


def span(evidence: Evidence, update: OthersUpdate) -> Tensor:
    """Orthonormal rows (k, d) that span the change of A of the lowest adapted layer; none where it did not move."""
    name = f"{lowest_adapted(evidence, update.observer)}.lora_A"
    return span_of(update.after[name] - update.before[name], update.before[name], ROUNDINGS)


def guessed(evidence: Evidence, updates: list[OthersUpdate], length: int) -> Tensor:
    """The token ids (N, length) whose inputs lie in the spans of N updates to the largest share."""
    path = lowest_adapted(evidence, updates[0].observer)
    spans = [span(evidence, update) for update in updates]
    best = torch.full((len(updates), length), -1.0)
    found = torch.zeros(len(updates), length, dtype=torch.int64)
    for ids, inputs in candidates(evidence, path, length):
        for row, spanned in enumerate(spans):
            share, which = (inputs @ spanned.T).square().sum(2).max(0)
            better = share > best[row]
            best[row] = torch.where(better, share, best[row])
            found[row] = torch.where(better, ids[which], found[row])
    return found


def _scored(step: Step, guess: Tensor, first_text: int) -> tuple[Tokens, Tensor]:
    """The tokens of a step's texts, and the guess for each: one text for all of them."""
    batch = step.batch
    shape = batch.input_ids.shape
    guesses = guess[: shape[1]].expand(shape)[batch.attention_mask.bool()]
    return tokens_of(torch.zeros(*shape, 0), batch, first_text), guesses
