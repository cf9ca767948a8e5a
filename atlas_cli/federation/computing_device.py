"""Where a run computes on this machine."""

from __future__ import annotations

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.frozen.compile_blocks import require_compiler


def computing_device(config: ExperimentConfig) -> torch.device:
    """The device of a run, after a check that this machine has it.

    Raises:
        ConfigError: no such device, or no compiler for it.
    """
    device = _named_device(config.device)
    if config.engine.compile:
        require_compiler(device)
    return device


def set_threads(config: ExperimentConfig) -> None:
    """Set the threads of torch in this process of a run; by default torch decides.

    With several processes on a machine each gets one thread, as together they would otherwise use more threads than
    there are cores.
    """
    threads = 1 if config.threads is None and config.engine.name == "ray" else config.threads
    if threads is not None:
        torch.set_num_threads(threads)


def _named_device(name: str) -> torch.device:
    """The device of a name in a config; "auto" takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[device.type]:
        raise ConfigError(f"this machine has no {device.type} device; use device: auto or cpu", key="device")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} GPUs, counted from 0, got {name}", key="device"
        )
    return device
