"""Replaces ``split_layer: auto`` in a config with devices by a number for every split layer.

The deepest layer that fits is taken (planning/cuts/choice.py says why): for ``clients.X.split_layer`` the deepest for
that client's device, for ``model.split_layer`` the deepest that all clients can hold.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import ClientSpec, ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.files.resolve import model_config
from atlas_cli.planning.client_plan import client_plan, codecs_of
from atlas_cli.planning.client_rows import most_by_entry, most_rows, read_tokens
from atlas_cli.planning.cuts.choice import choose_split
from atlas_cli.planning.cuts.table import Setting
from atlas_cli.planning.devices.devices import Device, devices_by_key, server_device
from atlas_cli.planning.memory.embedding_rows import ASSUMED_ROWS
from atlas_cli.planning.memory.encoding import coding_bytes
from atlas_cli.planning.method import method_of
from atlas_cli.planning.wire_checks import check_wire


def resolve_auto_cuts(config: ExperimentConfig) -> ExperimentConfig:
    """The config with a number for every ``split_layer: auto``; the config itself if there is none.

    A client with ``rank: auto`` gets memory for ``allocation.r_min`` here; its rank is allocated later.

    Raises:
        ConfigError: a client without a device or a device without memory.
        TooFewClientsError: no split layer fits a client; says what would.
        ResourceError: the model's config cannot be found.
    """
    auto = {spec.key: spec for spec in config.client_kinds() if spec.split_layer == "auto"}
    if not auto:
        return config
    hf_config, _, _ = model_config(config.model)
    rows, (kept, at_server) = most_rows(config, hf_config), _kept(config, hf_config)
    deepest = {
        key: _deepest(config, spec, hf_config, rows.get(key), kept.get(key, 0), at_server) for key, spec in auto.items()
    }
    inherited = [key for key in auto if config.entry_of(key).split_layer is None]
    model = config.model
    if inherited:
        model = model.model_copy(update={"split_layer": min(deepest[key] for key in inherited)})
    clients = {
        name: client.model_copy(update={"split_layer": deepest[f"clients.{name}"]})
        if client.split_layer == "auto"
        else client
        for name, client in config.clients.items()
    }
    return config.model_copy(update={"model": model, "clients": clients})


def _kept(config: ExperimentConfig, hf_config: PreTrainedConfig) -> tuple[dict[str, int], int]:
    """Bytes of what codecs keep of texts: the most of any client of a template, by its place in the config; and of all
    at the server."""
    check_wire(config, method_of(config))
    width = int(hf_config.hidden_size)
    kinds = [(kind, codecs_of(config, client_plan(kind, 0, {}), width)) for kind in config.client_kinds()]
    keeping = {
        name: (kind.task_group, codecs) for kind, codecs in kinds if codecs.numbered for name in config.names_of(kind)
    }
    tokens, _ = read_tokens(config, hf_config, {name: group for name, (group, _) in keeping.items()})
    at_client = {name: count * keeping[name][1].kept_token_bytes("client") for name, count in tokens.items()}
    at_server = sum(count * keeping[name][1].kept_token_bytes("server") for name, count in tokens.items())
    return most_by_entry(config, at_client), at_server


def _deepest(
    config: ExperimentConfig,
    spec: ClientSpec,
    hf_config: PreTrainedConfig,
    rows: int | None,
    kept: int,
    server_kept: int,
) -> int:
    device = _device(config, spec)
    ranks = list(spec.rank.values()) if isinstance(spec.rank, dict) else [spec.rank]
    targets = config.lora.targets
    setting = Setting(
        batch=config.training.batch_size,
        tokens=config.training.max_length,
        rank=max(config.allocation.r_min if isinstance(rank, str) else rank or 1 for rank in ranks),
        targets=targets if isinstance(targets, str) else tuple(targets),
        dtype=spec.dtype,
        quantization=spec.quantization,
        checkpointing=spec.checkpointing,
        fused_gelu=config.model.fused_gelu,
        server_dtype=config.model.dtype,
        server_quantization=config.model.quantization,
        embedding=spec.embedding,
        rows=rows or ASSUMED_ROWS,
        family=config.model.family,
        learns=spec.learns,
        probes=config.training.zeroth_order.probes,
        kept=kept,
        server_kept=server_kept,
        coding=coding_bytes(
            codecs_of(config, client_plan(spec, 0, {}), int(hf_config.hidden_size)),
            config.training.batch_size,
            config.training.max_length,
        ),
    )
    server = server_device(config) if config.server.device is not None else None
    choice = choose_split(config.model.name, setting, device, server, hf_config=hf_config).require()
    # adapters on the server half need a layer there
    return min(choice, int(hf_config.num_hidden_layers) - 1) if config.server.rank else choice


def _device(config: ExperimentConfig, spec: ClientSpec) -> Device:
    device = devices_by_key(config).get(spec.key)
    if device is None or device.memory is None:
        lacks = "no device" if device is None else f"device {device.name}, which has no memory"
        raise ConfigError(
            f"split_layer: auto needs a device with memory, and client {spec.name} has {lacks}; "
            "see atlas devices, or give a number",
            key=f"{spec.key}.device",
        )
    return device
