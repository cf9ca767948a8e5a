"""Each round's time on the virtual clock, from FLOPs and bytes of what really happened and the config's devices."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.engines.in_process import Trained
from atlas_cli.federation.build import Federation
from atlas_cli.federation.clock import ClientWork, RoundTime, round_time
from atlas_cli.federation.protocol import Ledger
from atlas_cli.planning.cost import client_step, server_step
from atlas_cli.planning.devices import DEFAULT_SERVER, Device, device_of, find_device

STEP_KINDS = ("activations", "gradients", "features", "feature-gradients")


def client_devices(config: ExperimentConfig) -> dict[str, Device]:
    """The device of every client that names one.

    Raises:
        ConfigError: a device that is neither configured nor built in.
    """
    configured = _configured(config)
    return {
        spec.name: find_device(spec.device, configured, key=f"{spec.key}.device")
        for spec in config.expanded_clients()
        if spec.device is not None
    }


def server_device(config: ExperimentConfig) -> Device:
    """The server's device; a workstation with a GPU where the config names none."""
    if config.server.device is None:
        return DEFAULT_SERVER
    return find_device(config.server.device, _configured(config), key="server.device")


def simulate(federation: Federation, trained: Mapping[str, Trained], ledger: Ledger) -> RoundTime | None:
    """The round on the virtual clock; None unless it is a split run and every client's device has rate and links."""
    config = federation.config
    devices, server = client_devices(config), server_device(config)
    works = []
    for client, did in trained.items():
        device = devices.get(client)
        if federation.server is None or device is None or device.lacks("compute", "uplink", "downlink"):
            return None
        works.append(_work(federation, client, device, did, ledger))
    if not works or server.lacks("compute"):
        return None
    return round_time(works, server, config.training.server_update, merge=federation.aggregator.shared)


def _work(federation: Federation, client: str, device: Device, did: Trained, ledger: Ledger) -> ClientWork:
    plan, ranks = federation.plan, federation.aggregator.members[client].ranks
    checkpointing = any(s.checkpointing for s in federation.config.expanded_clients() if s.name == client)
    flops = server_flops = 0.0
    for batch, tokens in did.shapes:
        step = (plan.family, plan.hf_config, plan.cut)
        flops += client_step(*step, ranks, plan.features, batch, tokens, checkpointing=checkpointing).total
        server_flops += server_step(*step, plan.n_layers, plan.upper_ranks, plan.features, batch, tokens).total
    sent = {
        way: [e for (c, kind, w), e in ledger.entries.items() if c == client and w == way and kind in STEP_KINDS]
        for way in ("up", "down")
    }
    adapters = {
        way: sum(
            e.bytes for (c, kind, w), e in ledger.entries.items() if c == client and w == way and kind not in STEP_KINDS
        )
        for way in ("up", "down")
    }
    return ClientWork(
        client,
        federation.group_of(client),
        device,
        flops / did.steps,
        server_flops / did.steps,
        sum(e.bytes for e in sent["up"]) / did.steps,
        sum(e.bytes for e in sent["down"]) / did.steps,
        did.steps,
        messages_up=len(sent["up"]),
        messages_down=len(sent["down"]),
        adapter_bytes_up=adapters["up"],
        adapter_bytes_down=adapters["down"],
    )


def _configured(config: ExperimentConfig) -> dict[str, Device]:
    return {name: device_of(name, device.model_dump()) for name, device in config.devices.items()}
