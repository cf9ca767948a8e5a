"""The predicted memory and step time of every split layer for a client of a config; no weights are loaded."""

from __future__ import annotations

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.cuts.choice import SplitChoice, choose_split
from atlas_cli.planning.cuts.table import Setting
from atlas_cli.planning.devices.devices import BUILT_IN, client_devices, server_device

DEFAULT_DEVICE = BUILT_IN["laptop-8gib"]


def costs_by_layer(config: ExperimentConfig, hf_config: object) -> SplitChoice:
    """The table for the first client with a device, else for a thin laptop, at the largest rank.

    Raises:
        ConfigError: a device is unknown, or has no memory figure.
    """
    device = next(iter(client_devices(config).values()), DEFAULT_DEVICE)
    ranks = [spec.rank for spec in config.expanded_clients()]
    sizes = [max(r.values()) if isinstance(r, dict) else r for r in ranks if r != "auto"]
    setting = Setting(
        batch=config.training.batch_size,
        tokens=config.training.max_length,
        rank=max((size for size in sizes if isinstance(size, int)), default=8),
        targets=config.lora.targets if config.lora.targets == "auto" else tuple(config.lora.targets),
        dtype=config.model.dtype,
        fused_gelu=config.model.fused_gelu,
    )
    return choose_split(config.model.name, setting, device, server_device(config), hf_config=hf_config)
