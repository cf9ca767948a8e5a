"""Before a run: whether every client fits its device, and whether this machine computes in the dtype that is asked."""

from __future__ import annotations

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.auto_ranks import RankPlan, plan_ranks
from atlas_cli.experiment.allocation.smaller_client import smaller_client
from atlas_cli.federation.federation import Federation
from atlas_cli.planning.alike import Alike
from atlas_cli.planning.devices.devices import bfloat16_slowdown
from atlas_cli.units import format_bytes_mib

SLOW = 3.0  # bfloat16 against float32: below it, memory may be worth the time


def slow_bfloat16(federation: Federation) -> str | None:
    """A warning where the run computes in bfloat16 on a CPU that has to emulate it."""
    config = federation.config
    used = [
        *(["training.autocast"] if config.training.autocast == "bfloat16" else []),
        *(["model.dtype"] if config.model.dtype == "bfloat16" else []),
        *sorted({f"{c.key}.dtype" for c in federation.plan.kinds if c.dtype not in ("float32", config.model.dtype)}),
    ]
    if not used or federation.device.type != "cpu" or (times := bfloat16_slowdown()) < SLOW:
        return None
    return (
        f"warning: bfloat16 ({used[0]}) is {times:.0f} times slower than float32 on this CPU, which has no units for it"
    )


def fit_to_devices(config: ExperimentConfig, method: str | None = None) -> RankPlan:
    """Replace every ``rank: auto`` by a number, after a check that every client with a device fits it.

    Args:
        method: as in ``plan_ranks``; "uniform" loads no weights.

    Raises:
        ConfigError: a client's predicted peak is above its device's memory; says by how much.
    """
    if not must_fit(config):
        return RankPlan(config, method or config.allocation.importance, ())
    planned = plan_ranks(config, method)
    for client in planned.clients.kinds if isinstance(planned.clients, Alike) else planned.clients:
        memory = client.device.memory if client.device else None
        if memory is not None and client.memory.peak > memory:
            spec = next(spec for spec in config.expanded_clients() if spec.name == client.name)
            smaller = smaller_client(planned.config, spec, memory)
            raise ConfigError(
                f"client {client.name} needs {format_bytes_mib(client.memory.peak)} at its peak (predicted, a full "
                f"batch of the longest examples) and its device has {format_bytes_mib(memory)}; lower its rank, "
                f"training.batch_size, training.max_length or model.split_layer{smaller and f', or set {smaller}'}",
                key=f"{spec.key}.device",
            )
    return planned


def must_fit(config: ExperimentConfig) -> bool:
    """Whether predicted memory matters: a client has a device, or ``rank: auto``."""
    return any(client.device is not None or client.rank == "auto" for client in config.clients.values())
