"""Each round's time on the virtual clock, from FLOPs and bytes of what really happened and the config's devices."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_cli.engines.in_process import Trained
from atlas_cli.federation.build import Federation
from atlas_cli.federation.clock import ClientWork, RoundTime, round_time
from atlas_cli.federation.protocol import Ledger
from atlas_cli.planning.cost import client_step, head_flops, server_step
from atlas_cli.planning.devices import Device, client_devices, server_device

STEP_KINDS = ("activations", "gradients", "features", "feature-gradients")


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
    return round_time(works, server, config.training.server_update, merge=federation.aggregator.exchanges)


def _work(federation: Federation, client: str, device: Device, did: Trained, ledger: Ledger) -> ClientWork:
    plan, ranks = federation.plan, federation.aggregator.members[client].ranks
    planned = next(c for c in plan.clients if c.name == client)
    above = plan.above(planned.cut)
    flops = server_flops = head = 0.0
    for batch, tokens in did.shapes:
        step = (plan.family, plan.hf_config, planned.cut)
        flops += client_step(*step, ranks, plan.features, batch, tokens, checkpointing=planned.checkpointing).total
        server_flops += server_step(*step, plan.n_layers, above, plan.features, batch, tokens).total
        head += head_flops(_head_numbers(federation, client), batch * tokens).total
    if federation.config.training.labels == "client":
        flops += head
    else:
        server_flops += head
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


def _head_numbers(federation: Federation, client: str) -> int:
    """Numbers of the head that reads every token: the output embedding; a sequence head's own are a few thousandths."""
    group = federation.group_of(client)
    if federation.data[group].task.causal_only:
        return int(federation.plan.hf_config.vocab_size) * federation.plan.hidden_size
    return sum(p.numel() for p in federation.model_of_client(client).head.parameters())
