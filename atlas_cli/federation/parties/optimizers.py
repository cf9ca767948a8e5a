"""Optimizers, and the learning-rate schedule: a pure function of the step, so that resuming needs no state of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from atlas_cli.config.schema.experiment import OptimizerConfig, TrainingConfig
from atlas_cli.storage.state_dict import require_tensor

_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


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


def learning_rate_factor(training: TrainingConfig, step: int) -> float:
    """The factor of the configured learning rate at a local step, counted over all rounds from 0.

    Linear warm-up over the first ``warmup`` share of all steps, then constant, linear or half-cosine decay to zero.
    """
    schedule, total_steps = training.schedule, training.rounds * training.local_steps
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


def moments_of(optimizer: torch.optim.Optimizer | None) -> dict[str, torch.Tensor]:
    """The state tensors of an optimizer, named by parameter number and moment: ``0/exp_avg``."""
    states = optimizer.state_dict()["state"].items() if optimizer is not None and optimizer.state else ()
    return {
        f"{i}/{key}": value for i, state in states for key, value in state.items() if isinstance(value, torch.Tensor)
    }


def load_moments(optimizer: torch.optim.Optimizer | None, moments: Mapping[str, torch.Tensor]) -> None:
    """Replace an optimizer's state by copies of the tensors that ``moments_of`` returned.

    Raises:
        StateError: of a parameter that has any moments some are missing, or one is not of the parameter's shape and
            type, is negative where it counts or is a square, or is of no parameter.
    """
    if not moments and (optimizer is None or not optimizer.state):
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]] if optimizer is not None else []
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name in sorted(moments):
        index, _, key = name.rpartition("/")
        known = index.isdecimal() and int(index) < len(parameters)
        require_tensor(known and key in _MOMENTS, f"moments/{name}", "is no moment of a parameter")
        _require_moment(name, moments[name], parameters[int(index)])
        states.setdefault(int(index), {})[key] = moments[name].clone()
    for number, state in states.items():
        whole = state.keys() in ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"})
        require_tensor(whole, f"moments/{number}", f"has {', '.join(sorted(state))} alone")
    if optimizer is not None:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def _require_moment(name: str, value: torch.Tensor, parameter: nn.Parameter) -> None:
    key, like = name.rpartition("/")[2], torch.tensor(0.0) if name.endswith("/step") else parameter
    found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (value, like))
    require_tensor(found == wanted, f"moments/{name}", f"is {found}, expected {wanted}")
    wrong = (key in ("step", "exp_avg_sq") and (value < 0).any()) or (key == "step" and value != value.round())
    require_tensor(not wrong, f"moments/{name}", "is no number of steps" if key == "step" else "is negative")


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
