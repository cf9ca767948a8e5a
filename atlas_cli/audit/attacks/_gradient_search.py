"""What attacks that match gradients share: clients with equal adapters together, the descent, and the score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from atlas_cli.audit.attacks._client_gradients import ClientGradient
from atlas_cli.audit.attacks._gradient_match import ClientSteps
from atlas_cli.audit.attacks._recovery import nearest, recovery
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Tokens, tokens_of
from atlas_cli.audit.figures import Figure, Inapplicable, require_examples
from atlas_cli.hashing import sha256_tensors
from atlas_cli.wire.messages import Gradients

TEXTS = 32  # attacked: each takes a backward of a backward in every step
STEPS, RATE = 100, 0.3  # of Adam, whose rate goes down to 0, in units of an embedding's root mean square


@dataclass(frozen=True)
class Target:
    """The gradients that K clients with equal adapters show, and their steps as a function of texts.

    Attributes:
        client: the first of them.
        steps: their local steps; names: of the parameters whose gradients are seen.
        seen: the gradients (K, n), of norm 1; norms: theirs before, (K,).
        scaled: (K,) bool, whether the norm is that of the gradient; noisy: whether any has noise.
        at_cut: the gradients that came back to the clients, (B, T, D).
    """

    client: str
    steps: ClientSteps
    names: list[str]
    seen: Tensor
    norms: Tensor
    scaled: Tensor
    noisy: bool
    at_cut: Tensor

    @property
    def table(self) -> Tensor:
        """The embedding (V, D) of every token."""
        return self.steps.table

    def parts(self, embedded: Tensor, at_cut: Tensor) -> list[Tensor]:
        """The gradients by parameter, (K, elements) each, in units of those that are seen, for embeddings (B, T, D)."""
        given = self.steps.gradients(embedded, at_cut)
        found = [given[name].flatten(1) for name in self.names]
        own = torch.stack([part.square().sum(1) for part in found]).sum(0).clamp_min(1e-24).sqrt()
        units = torch.where(self.scaled, self.norms, own)  # where only directions are known, they are compared
        return [part / units[:, None] for part in found]

    def seen_parts(self, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        """What is seen by parameter, of so many elements each."""
        return self.seen.split(list(sizes), 1)


Objective = Callable[[Target, Tensor, Tensor], Tensor]  # (K,) from the target, embeddings and gradients at the cut
Recover = Callable[[Target], Tensor]  # token ids (B, T)


def recovery_by_gradients(
    attack: BaseAttack, evidence: Evidence, gradients: Iterable[ClientGradient], recover: Recover, note: str
) -> Figure:
    """The share of tokens recovered from gradients, position by position.

    Args:
        recover: finds texts of clients with equal adapters.
        note: whatever a reader must know of this attack.
    """
    found: list[tuple[Tokens, Tensor]] = []
    every = list(gradients)
    require_examples(sum(each.step.batch.n_examples for each in every), "texts")  # before anything is matched
    directions = sum(not each.scaled for each in every)
    texts = 0
    for together in with_equal_adapters(evidence, every):
        target = target_of(evidence, together)
        rows = iter(recover(target))
        for each in together:
            batch = each.step.batch
            ids = torch.stack([next(rows) for _ in range(batch.n_examples)])[:, : batch.input_ids.shape[1]]
            nothing = torch.zeros(*batch.input_ids.shape, 0)
            found.append((tokens_of(nothing, batch, texts), ids[batch.attention_mask.bool()]))
            texts += batch.n_examples
    clipped = f"of {directions} of {len(every)} gradients the direction alone is known" if directions else ""
    noisy = "they have noise" if any(each.noisy for each in every) else ""
    notes = "; ".join(filter(None, (note, clipped, noisy)))
    tokens, guesses = zip(*found, strict=True)
    return recovery(attack, evidence, Tokens.joined(tokens), torch.cat(guesses), notes)


def with_equal_adapters(evidence: Evidence, every: Sequence[ClientGradient]) -> Iterator[list[ClientGradient]]:
    """The gradients of clients that began a round with equal adapters, together."""
    together: dict[tuple[object, ...], list[ClientGradient]] = {}
    for each in every:
        step = each.step
        adapters = evidence.party(step.client, step.round).adapters
        state = adapters.state()
        for path, pieces in adapters.frozen.items():
            state |= {f"{path}/{i}/{j}": factor for i, pair in enumerate(pieces) for j, factor in enumerate(pair)}
        key = step.round, evidence.cut(step.client), sha256_tensors(state)
        together.setdefault(key, []).append(each)
    yield from together.values()


def target_of(evidence: Evidence, together: Sequence[ClientGradient]) -> Target:
    """What clients with equal adapters show.

    Raises:
        Inapplicable: a gradient at the cut was not recorded, or one of a client is 0.
    """
    steps, names = [each.step for each in together], sorted(together[0].values)
    longest = max(step.batch.input_ids.shape[1] for step in steps)
    masks, at_cut = [], []
    for step in steps:
        if Gradients not in step.messages:
            raise Inapplicable(f"the gradients that {step.client} was sent in round {step.round} were not recorded")
        length = step.batch.attention_mask.shape[1]
        sent = evidence.decoded(step, Gradients).gradients[:, :length].float().cpu()
        masks.append(pad(step.batch.attention_mask, (0, longest - length)))
        at_cut.append(pad(sent, (0, 0, 0, longest - length)))
    party, counts = evidence.party(steps[0].client, steps[0].round), [step.batch.n_examples for step in steps]
    seen = torch.stack([torch.cat([each.values[name].flatten().float() for name in names]) for each in together])
    norms = seen.norm(dim=1)
    if not norms.all():
        raise Inapplicable("the gradient of a client is 0")
    scaled = torch.tensor([each.scaled for each in together])
    noisy = any(each.noisy for each in together)
    made = ClientSteps(party, torch.cat(masks), counts, steps[0].round)
    return Target(steps[0].client, made, names, seen / norms[:, None], norms, scaled, noisy, torch.cat(at_cut))


def descend(target: Target, objective: Objective, start: Tensor, steps: int) -> Tensor:
    """Embeddings (B, T, D) after so many steps of Adam on the objective's sum, from ``start`` on."""
    rate = RATE * float(target.table.square().mean().sqrt())
    embedded = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([embedded], rate)
    for i in range(steps):
        (embedded.grad,) = torch.autograd.grad(objective(target, embedded, target.at_cut).sum(), embedded)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * (1 - (i + 1) / steps)
    return embedded.detach()


def mean_embedding(target: Target) -> Tensor:
    """The mean of all embeddings at every position, (B, T, D): a start that prefers no token."""
    return target.table.mean(0).expand(*target.steps.mask.shape, -1)


def nearest_tokens(target: Target, embedded: Tensor) -> Tensor:
    """The token ids (B, T) nearest to embeddings (B, T, D)."""
    return nearest(embedded.flatten(0, 1), target.table).view(target.steps.mask.shape)
