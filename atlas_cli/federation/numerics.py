"""Checks and steps that both sides take in the same way.

Finite values, gradient clipping, precision, seeded dropout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from atlas_cli.errors import NonFiniteError
from atlas_cli.seeding import forked


def require_finite(tensor: Tensor, what: str) -> None:
    """Stop before a value that is not finite reaches an optimizer.

    Raises:
        NonFiniteError: names ``what``, e.g. "loss of client phone-1, round 2, step 5".
    """
    if not torch.isfinite(tensor).all():
        raise NonFiniteError(f"{what} is not finite; try a lower learning rate or training.max_grad_norm")


def clip_and_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None, what: str
) -> None:
    """Check and clip the gradients of ``parameters``, step, and drop the gradients."""
    trained = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    require_finite(norm, f"gradient norm {what}")
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def precision(device: torch.device, autocast: str) -> Iterator[None]:
    """bf16 autocast where asked for, else nothing."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast == "bfloat16"):
        yield


@contextmanager
def seeded_dropout(dropout: float, seed: int, *purpose: str | int, device: torch.device) -> Iterator[None]:
    """Make dropout a function of (seed, purpose); costs nothing where there is none."""
    with ExitStack() as stack:
        if dropout > 0:
            stack.enter_context(forked(seed, "dropout", *purpose, device=device))
        yield
