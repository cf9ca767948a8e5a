"""The time of what was generated on the devices and links of a run, by the formulas of the virtual clock.

A pass is a local step without a backward: the client's blocks, the upload, the server's blocks and the head, the
download. Prompts are one pass, and each further token one more, which attends to all tokens before it. The client asks
for nothing else meanwhile, and the server serves nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas_cli.inference.generation.texts import TextGeneration
from atlas_cli.planning.devices.clock import ClientWork, LocalStep, round_time
from atlas_cli.planning.devices.clock_notes import trace_notes
from atlas_cli.planning.devices.cost import block_shapes, generation_flops, head_step
from atlas_cli.planning.devices.devices import Device, client_devices, server_device


@dataclass(frozen=True)
class DeviceTime:
    """What was generated, on one kind of device.

    Attributes:
        device: its name; ``clients``: those that have it.
        seconds: of everything.
        first_token: seconds from a batch of prompts to its first tokens, the mean over batches.
        next_token: seconds of each pass after that, the mean; None where there was none.
        compute, upload, server, download: the parts of ``seconds``.
        joules: of the client; None where its watts are not known.
    """

    device: str
    clients: list[str]
    seconds: float
    first_token: float
    next_token: float | None
    compute: float
    upload: float
    server: float
    download: float
    joules: float | None


def device_times(done: TextGeneration) -> tuple[list[DeviceTime], list[str]]:
    """The time on each device of the clients whose model it is, and why there is none on others."""
    config, owner = done.loaded.config, done.loaded.owner
    if config.mode == "centralized":
        return [], ["no time on the virtual clock: the learner of mode centralized has no device"]
    devices, server = client_devices(config), server_device(config)
    members = [spec.name for spec in config.expanded_clients() if spec.task_group == owner.group]
    members = [owner.client] if owner.client in members else members
    by_device: dict[Device, list[str]] = {}
    for name in members:
        if name in devices:
            by_device.setdefault(devices[name], []).append(name)
    if not by_device:
        return [], ["no time on the virtual clock: no client of this model has a device"]
    if server.lacks("compute"):
        return [], [f"no time on the virtual clock: the server's device {server.name} has no compute"]
    wanted = ("compute", "uplink", "downlink")
    notes = [
        f"no time on {device.name}: it has no {' and no '.join(lacking)}"
        for device in by_device
        if (lacking := device.lacks(*wanted))
    ]
    if done.split and config.server.device is None:
        notes.append(f"the server is taken to be a {server.name} (assumed; server.device names another)")
    steps = list(_steps(done))
    known = {device: names for device, names in by_device.items() if not device.lacks(*wanted)}
    if done.split:
        notes += [note for device in known for note in trace_notes(device)]
    return [_time(done, steps, device, names, server) for device, names in known.items()], notes


def _time(
    done: TextGeneration, steps: Sequence[Sequence[LocalStep]], device: Device, clients: list[str], server: Device
) -> DeviceTime:
    def seconds(some: Sequence[LocalStep]) -> float:
        return round_time([ClientWork("", "", device, some)], server, merge=False).seconds

    every = [step for of_batch in steps for step in of_batch]
    later = [step for of_batch in steps for step in of_batch[1:]]
    spent = round_time([ClientWork("", "", device, every)], server, merge=False).clients[""]
    return DeviceTime(
        device.name,
        clients,
        seconds(every),
        seconds([of_batch[0] for of_batch in steps]) / len(steps),
        seconds(later) / len(later) if later else None,
        spent.compute,
        spent.upload,
        spent.server,
        spent.download,
        spent.joules,
    )


def _steps(done: TextGeneration) -> Iterator[list[LocalStep]]:
    """The passes of each batch: FLOPs by shapes, bytes as they were counted."""
    loaded, client = done.loaded, done.loaded.owner.name
    base, ranks = loaded.base, loaded.model.adapters.ranks
    shapes, layers = block_shapes(base.family, base.config), base.n_layers
    cut = loaded.cut if done.split else layers
    kinds = {"up": ("activations", "beams"), "down": ("tokens", "features")}
    sizes = {
        (kind, way): iter(done.ledger.sizes(client, kind, way))  # type: ignore[arg-type]
        for way, found in kinds.items()
        for kind in found
    }
    for batch in done.batches:
        head = head_step(loaded.task, base.hidden_size, int(base.config.vocab_size), batch.rows, 1).forward
        passes = []
        for number in range(batch.steps):
            tokens, context = (
                (1, batch.prompt_tokens + number) if number else (batch.prompt_tokens, batch.prompt_tokens)
            )
            below, above = (
                generation_flops(shapes, of_side, ranks, batch.rows, tokens, context)
                for of_side in (range(cut), range(cut, layers))
            )
            own, theirs = (below + head, above) if done.samples_at_client else (below, above + head)
            sent = [next(sizes["activations", "up"], 0)]
            if number and (more := next(sizes["beams", "up"], 0)):
                sent.append(more)
            got = next(sizes["tokens", "down"], 0) or next(sizes["features", "down"], 0)
            passes.append(LocalStep(own, 0, theirs, sum(sent), got, len(sent) * done.split, int(done.split)))
        yield passes
