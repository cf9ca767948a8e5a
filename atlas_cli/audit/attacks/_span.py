"""The span check: which tokens, at which positions, are inputs that an update of a LoRA A was made of.

The gradient of A (r, d) of the lowest adapted layer is s B^T G X: its rows lie in the span of the layer's inputs X, one
row a token. In the lowest block an input is a function of token and position alone, so every one can be tried.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.halves.split import run_half

CHUNK = 256  # tokens tried at once, at all positions


def lowest_adapted(evidence: Evidence, client: str) -> str:
    """The lowest adapted layer, which must be in the lowest block."""
    party = evidence.party(client, 1)
    path = next(iter(party.adapters.adapters))
    if layer_of(path, evidence.federation.base.family) > 0:
        raise Inapplicable("the lowest block has no adapter")
    return path


def span_of(change: Tensor, before: Tensor, roundings: float = 1.0) -> Tensor:
    """Orthonormal rows (k, d) that span a change of A (r, d), as far as it is above the rounding of A.

    Args:
        roundings: of how many values of the size of A the change was computed.
    """
    _, sizes, rows = torch.linalg.svd(change.double(), full_matrices=False)
    rounding = torch.finfo(torch.float32).eps * float(before.abs().max()) * before.shape[1] ** 0.5
    return rows[sizes > roundings * rounding].float()


@torch.no_grad()
def candidates(evidence: Evidence, path: str, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (n,) and the layer's inputs for them at every position, (n, length, d), of norm 1.

    Raises:
        Inapplicable: the layer's input depends on more than a token and its position.
    """
    base = evidence.federation.base
    half, layer = base.client_half(1), base.model.get_submodule(path)

    def inputs_of(ids: Tensor) -> Tensor:
        with layer.register_forward_pre_hook(_stop):
            try:
                run_half(half, torch.ones_like(ids), input_ids=ids)
            except _Given as given:
                return nn.functional.normalize(given.x.float(), dim=-1)
        raise Inapplicable(f"{path} is not in the lowest block")

    every = torch.arange(len(evidence.embedding))
    mixed = every[: 2 * length : 2][None]
    alike = inputs_of(mixed[:, -1:].expand_as(mixed))
    if not torch.allclose(inputs_of(mixed)[0, -1], alike[0, -1], atol=1e-5):
        raise Inapplicable(f"the input of {path} depends on the tokens around")
    for ids in every.split(CHUNK):
        yield ids, inputs_of(ids[:, None].expand(-1, length))


class _Given(Exception):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


def _stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
    raise _Given(args[0])
