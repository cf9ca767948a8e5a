"""Numerics that both sides share.

Finite values, gradient clipping, precision, seeded dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from atlas_cli.errors import AtlasError, NonFiniteError
from atlas_cli.seeding import forked


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or not a number."""
    # a sum with such a value is none either, and takes a tenth of the time; that of large values may be infinite too
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def require_finite(tensor: Tensor, what: str) -> None:
    """Stop before a value that is not finite reaches an optimizer.

    Raises:
        NonFiniteError: names ``what``, e.g. "loss of client phone-1, round 2, step 5".
    """
    if not is_finite(tensor):
        raise NonFiniteError(f"{what} is not finite; try a lower learning rate or training.max_grad_norm")


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient that the last backward left.

    Raises:
        AtlasError: there is none.
    """
    if parameter.grad is None:
        raise AtlasError("a gradient was asked for before the backward that computes it")
    return parameter.grad


def first_not_finite(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The name of the first tensor that has a value that is not finite."""
    return next((name for name, tensor in named if tensor is not None and not is_finite(tensor)), None)


def require_finite_gradients(
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor | None],
    what: str,
    name_of: Callable[[nn.Parameter], str] | None = None,
) -> Tensor:
    """The norm of all gradients together, 0-d.

    Args:
        what: the party and step, e.g. "of client phone-1, round 2, step 5".
        name_of: the name of a parameter in messages.

    Raises:
        NonFiniteError: names the first parameter whose gradient is not finite, where one alone is not.
    """
    norm = nn.utils.get_total_norm([g for g in gradients if g is not None])
    if torch.isfinite(norm):
        return norm
    where = first_not_finite((name_of(p), g) for p, g in zip(parameters, gradients, strict=True)) if name_of else None
    require_finite(norm, f"gradient norm {what}{f', in {where},' if where else ''}")
    return norm


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    max_norm: float | None,
    what: str,
    name_of: Callable[[nn.Parameter], str] | None = None,
) -> None:
    """Check and clip the gradients of ``parameters``, step, and drop the gradients."""
    trained = [p for p in parameters if p.grad is not None]
    norm = require_finite_gradients(trained, [p.grad for p in trained], what, name_of)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    optimizer.step()
    # fused kernels do not count versions up, by which it is known who holds what it held
    torch.autograd.graph.increment_version(trained)
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def precision(device: torch.device, autocast: str) -> Iterator[None]:
    """bf16 autocast if the config asks for it, else nothing."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast == "bfloat16"):
        yield


@contextmanager
def seeded_dropout(dropout: float, seed: int, *purpose: str | int, device: torch.device) -> Iterator[None]:
    """Make dropout a function of (seed, purpose); costs nothing where there is none."""
    with ExitStack() as stack:
        if dropout > 0:
            stack.enter_context(forked(seed, "dropout", *purpose, device=device))
        yield
