"""What a client owns, given to one that was made anew, so that it goes on where another stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.client_state.unsound import TENSORS, unsound
from atlas_cli.federation.parties.optimizers import load_moments
from atlas_cli.federation.parties.party import Party
from atlas_cli.models.adapters.lora import AdapterSet


@torch.no_grad()
def give(party: Party, member: Member, held: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Let a client hold what another did.

    Args:
        member: of the client; its adapters shrink to the ranks of those in ``held``.
        held: as ``Member.held`` names it; ``moments``: as ``offload.moments_in`` does.

    Raises:
        Unsound: other names, shapes or types.
    """
    adapters = member.adapters.adapters
    saved = {path: held[f"{path}.lora_A"].shape[0] for path in adapters if f"{path}.lora_A" in held}
    shrink(party, member.adapters, {path: rank for path, rank in saved.items() if rank < adapters[path].rank})
    take(member.held(), held)
    for i, optimizer in enumerate(party.optimizers()):
        own = {n.partition("/")[2]: t for n, t in moments.items() if n.startswith(f"{i}/")}
        give_moments(optimizer, f"moments/{i}", own)
    give_term(party, moments)


def give_term(party: Party, moments: Mapping[str, Tensor]) -> None:
    """Let the term of a client's method go on from what ``offload.moments_in`` has of it."""
    if party.term is not None:
        own = {n.removeprefix("term/"): t.to(party.device, copy=True) for n, t in moments.items() if n[:5] == "term/"}
        party.term.load_state_dict(own)


def take(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Write saved values over those of a federation.

    Raises:
        Unsound: other names, shapes or types.
    """
    if live.keys() != saved.keys():
        name = min(live.keys() ^ saved.keys())
        raise unsound(TENSORS, name, "is missing" if name in live else "is of no client, group or adapter")
    for name, value in live.items():
        if value.shape != saved[name].shape or value.dtype != saved[name].dtype:
            found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (saved[name], value))
            raise unsound(TENSORS, name, f"is {found}, expected {wanted}")
        value.copy_(saved[name])


def named(prefix: str, adapters: AdapterSet, head: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    """Adapters and a head, each tensor by its name."""
    for name, value in adapters.state().items():
        yield f"{prefix}{name}", value
    for name, parameter in head.named_parameters() if head is not None else ():
        yield f"{prefix}head.{name}", parameter.detach()


def give_moments(optimizer: torch.optim.Optimizer, owner: str, moments: Mapping[str, Tensor]) -> None:
    """Give an optimizer the moments that it had: of each parameter that has any, all, and each of its shape.

    Raises:
        Unsound: others.
    """
    found: dict[str, set[str]] = {}
    for name, value in moments.items():
        index, _, key = name.rpartition("/")
        if key not in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
            raise unsound(TENSORS, f"{owner}/{name}", "is no moment of an optimizer")
        if (key == "step") != (value.dim() == 0):
            raise unsound(TENSORS, f"{owner}/{name}", f"has shape {tuple(value.shape)}")
        if key == "step" and (value.dtype != torch.float32 or value != value.round()):
            raise unsound(TENSORS, f"{owner}/{name}", "is no number of steps")
        found.setdefault(index, set()).add(key)
    for index, keys in found.items():
        if keys not in ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}):
            raise unsound(TENSORS, f"{owner}/{index}", f"has {', '.join(sorted(keys))} alone")
    try:
        load_moments(optimizer, moments)
    except ValueError as error:
        raise unsound(TENSORS, owner, f"does not fit: {error}") from None


def shrink(party: Party, adapters: AdapterSet, ranks: Mapping[str, int]) -> None:
    """Give some of a client's adapters a smaller rank."""
    for path, rank in ranks.items():
        adapters.adapters[path].shrink(rank)
    if ranks:
        party.reset_optimizer()
