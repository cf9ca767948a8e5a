"""What a client owns, as named tensors: all that a client made anew must be given to go on where another stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from atlas_cli.errors import ResourceError
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.optimizers import load_moments, moments_of
from atlas_cli.federation.pruning import shrink
from atlas_cli.federation.unsplit import UnsplitClient
from atlas_cli.models.lora import AdapterSet

Party = SplitClient | UnsplitClient


def values_of(party: Party) -> Iterator[tuple[str, Tensor]]:
    """Its adapters and its head; ``upper/`` stands before those above the cut."""
    yield from named("", party.adapters, party.head)
    if isinstance(party, UnsplitClient):
        yield from named("upper/", party.upper, None)


def owned_by(party: Party) -> dict[str, Tensor]:
    """All that ``give`` takes: adapters, the trained part of the head, and moments."""
    tensors = {name: value for name, value in values_of(party) if name not in _frozen_in(party)}
    for i, optimizer in enumerate(party.optimizers()):
        tensors |= {f"{i}/optimizer/{name}": value for name, value in moments_of(optimizer).items()}
    return tensors


@torch.no_grad()
def give(party: Party, held: AdapterSet, tensors: Mapping[str, Tensor]) -> None:
    """Let a client own ``tensors``: values as ``values_of`` names them, moments as ``<optimizer>/optimizer/<which>``.

    Args:
        held: the adapters that it exchanges; they shrink to the ranks of those in ``tensors``.
        tensors: the frozen part of a head may be left out.

    Raises:
        ResourceError: other names, shapes or types.
    """
    shorter = {}
    for path, adapter in held.adapters.items():
        for key in (f"{path}.lora_A", f"upper/{path}.lora_A"):
            if key in tensors and tensors[key].shape[0] < adapter.rank:
                shorter[path] = tensors[key].shape[0]
    shrink(party, held, shorter)
    frozen = _frozen_in(party)
    live = {n: value for n, value in values_of(party) if n in tensors or n not in frozen}
    take(live, {n: value for n, value in tensors.items() if "/optimizer/" not in n})
    for i, optimizer in enumerate(party.optimizers()):
        prefix = f"{i}/optimizer/"
        load_moments(optimizer, {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})


def take(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Write saved values over those of a federation.

    Raises:
        ResourceError: other names, shapes or types.
    """
    if live.keys() != saved.keys():
        raise ResourceError("the checkpoint is not of this experiment: other clients, groups or adapters")
    for name, value in live.items():
        if value.shape != saved[name].shape or value.dtype != saved[name].dtype:
            raise ResourceError(f"the checkpoint is not of this experiment: {name} has another shape or type")
        value.copy_(saved[name])


def named(prefix: str, adapters: AdapterSet, head: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    """Adapters and a head, each tensor by its name."""
    for name, value in adapters.state().items():
        yield f"{prefix}{name}", value
    for name, parameter in head.named_parameters() if head is not None else ():
        yield f"{prefix}head.{name}", parameter.detach()


def _frozen_in(party: Party) -> set[str]:
    head = party.head.named_parameters() if party.head is not None else ()
    return {f"head.{name}" for name, parameter in head if not parameter.requires_grad}
