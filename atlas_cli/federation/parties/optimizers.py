"""Optimizers, and the learning-rate schedule: a pure function of the step, so that resuming needs no state of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from atlas_cli.config.schema.experiment import OptimizerConfig, ScheduleConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer | None:
    """AdamW or SGD over ``parameters``; None where there are none to train."""
    trained = list(parameters)
    if not trained:
        return None
    if config.name == "adamw":
        beta1, beta2 = config.betas
        return torch.optim.AdamW(
            trained, lr=config.lr, weight_decay=config.weight_decay, betas=(beta1, beta2), fused=_fusable(trained)
        )
    return torch.optim.SGD(trained, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum)


def learning_rate_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """What the configured rate is multiplied by at ``step`` (from 0) of ``total_steps``.

    Linear warm-up over the first ``warmup`` share of all steps, then constant, linear or half-cosine decay to zero.
    """
    warm = math.ceil(schedule.warmup * total_steps)
    if step < warm:
        return (step + 1) / warm
    if schedule.name == "constant":
        return 1.0
    progress = (step - warm) / max(1, total_steps - warm)
    return 1.0 - progress if schedule.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` for the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def drop_state(optimizer: torch.optim.Optimizer | None, parameters: Iterable[nn.Parameter]) -> None:
    """Forget the moments of ``parameters``; those of others stay."""
    if optimizer is not None:
        for parameter in parameters:
            optimizer.state.pop(parameter, None)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Its state tensors, named by number of the parameter and what they are: ``0/exp_avg``."""
    states = optimizer.state_dict()["state"].items() if optimizer.state else ()
    return {
        f"{i}/{key}": value for i, state in states for key, value in state.items() if isinstance(value, torch.Tensor)
    }


def load_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, torch.Tensor]) -> None:
    """Give an optimizer copies of what ``moments_of`` gave, in place of its state.

    Raises:
        ValueError: a moment has another shape or type than its parameter, or there is no such parameter.
    """
    if not moments and not optimizer.state:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name in sorted(moments):
        index, key = name.split("/")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise ValueError(f"there is no parameter {index!r:.40} to have {key}")
        value, own = moments[name], parameters[int(index)]
        if key != "step" and (value.shape != own.shape or value.dtype != own.dtype):
            found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (value, own))
            raise ValueError(f"{key} of parameter {index} is {found}, expected {wanted}")
        states.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def state_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of an optimizer's state tensors as they are now."""
    if optimizer is None:
        return 0
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def _fusable(parameters: list[nn.Parameter]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in parameters)
