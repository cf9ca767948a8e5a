"""The virtual clock: how long a round would take on the devices of a plan, whatever machine simulates it.

A pure function of FLOPs, bytes, messages and device figures. A local step of a client is: forward, upload, the
server's forward and backward, download, backward. What the server does when several clients want it depends on its
update:

    pooled       a worker a client; a step of a task group begins when the step before is done for all its clients
    per-client   a worker a client; nobody waits for anybody before the end of the round
    sequential   one worker, which serves all clients in their order, step after step (SplitFed V2)

The first two are the parallel server. At the end of the round clients send their adapters, the server merges a
group's when its last has come, and delivers them. Links are not shared: a client's transfer goes at the slower of its
own rate and the server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from atlas_cli.planning.cost import compute_seconds, download_seconds, upload_seconds
from atlas_cli.planning.devices import Device

ServerUpdate = Literal["pooled", "per-client", "sequential"]


@dataclass(frozen=True)
class ClientWork:
    """What a client does in a round.

    Attributes:
        task_group: clients of one group are merged together.
        device: it must have compute, uplink and downlink.
        flops: of one local step on the client, half of them before its upload.
        server_flops: of one local step on the server.
        bytes_up, bytes_down: of one local step, in ``messages_up`` and ``messages_down`` messages.
        steps: local steps of the round.
        adapter_bytes_up, adapter_bytes_down: at the end of the round, a message each; 0 sends none.
    """

    name: str
    task_group: str
    device: Device
    flops: float
    server_flops: float
    bytes_up: float
    bytes_down: float
    steps: int
    messages_up: int = 1
    messages_down: int = 1
    adapter_bytes_up: float = 0
    adapter_bytes_down: float = 0


@dataclass(frozen=True)
class ClientTime:
    """Simulated seconds of a client in a round; the five parts sum to the round's.

    Attributes:
        compute, upload, download: of the client.
        server: that the server works on this client's batches.
        wait: for other clients: at the server, at the merge and at the end of the round.
        finished: when the client was done with its local steps and had sent its adapters.
        joules: watts times the seconds that it computes and transfers; None without watts.
    """

    compute: float
    upload: float
    server: float
    download: float
    wait: float
    finished: float
    joules: float | None


@dataclass(frozen=True)
class RoundTime:
    """Simulated time of one round.

    Attributes:
        seconds: until the last client has the merged adapters.
        straggler: the client that was done last.
        joules: of all clients; None where any has no watts.
    """

    seconds: float
    clients: dict[str, ClientTime]
    straggler: str
    joules: float | None

    @property
    def median_finished(self) -> float:
        """When the client in the middle was done: far from the straggler's, the round is decided by one device."""
        finished = sorted(c.finished for c in self.clients.values())
        return finished[len(finished) // 2]


def round_time(
    works: Sequence[ClientWork], server: Device, server_update: ServerUpdate = "pooled", *, merge: bool = True
) -> RoundTime:
    """Simulated time of a round.

    Args:
        works: of the clients that take part; the sequential server serves them in this order.
        server: it must have compute; without link figures the clients' decide.
        merge: False where nothing is aggregated: clients do not wait for their group.

    Raises:
        ValueError: no client, two of one name, or a figure that a device does not have.
    """
    names = [w.name for w in works]
    if not works or len(set(names)) < len(names):
        raise ValueError("a round needs clients, each with a name of its own")
    sent = {w.name: _adapters_up(w, server) for w in works}
    last_backward = _steps(works, server, server_update)
    finished = {name: last_backward[name] + sent[name] for name in names}
    merged = {g: max(finished[w.name] for w in works if w.task_group == g) for g in {w.task_group for w in works}}
    delivered = {
        w.name: (merged[w.task_group] if merge else finished[w.name]) + _adapters_down(w, server) for w in works
    }
    seconds = max(delivered.values())
    clients = {w.name: _time(w, server, seconds, finished[w.name]) for w in works}
    joules = [c.joules for c in clients.values()]
    return RoundTime(
        seconds,
        clients,
        straggler=max(names, key=lambda name: finished[name]),
        joules=None if None in joules else sum(j for j in joules if j is not None),
    )


def _steps(works: Sequence[ClientWork], server: Device, server_update: ServerUpdate) -> dict[str, float]:
    """When each client is done with the backward of its last local step."""
    half = {w.name: compute_seconds(w.flops, w.device) / 2 for w in works}
    up = {w.name: upload_seconds(w.bytes_up, w.messages_up, w.device, server) for w in works}
    down = {w.name: download_seconds(w.bytes_down, w.messages_down, w.device, server) for w in works}
    serve = {w.name: compute_seconds(w.server_flops, server) for w in works}
    ready = {w.name: 0.0 for w in works}
    worker_free = 0.0
    group_done = {w.task_group: 0.0 for w in works}
    for step in range(max(w.steps for w in works)):
        active = [w for w in works if step < w.steps]
        served = {}
        for w in active:
            begin = ready[w.name] + half[w.name] + up[w.name]
            if server_update == "sequential":
                begin = max(begin, worker_free)
                worker_free = begin + serve[w.name]
            elif server_update == "pooled":
                begin = max(begin, group_done[w.task_group])
            served[w.name] = begin + serve[w.name]
            ready[w.name] = served[w.name] + down[w.name] + half[w.name]
        for w in active:
            group_done[w.task_group] = max(group_done[w.task_group], served[w.name])
    return ready


def _time(w: ClientWork, server: Device, seconds: float, finished: float) -> ClientTime:
    compute = w.steps * compute_seconds(w.flops, w.device)
    up = w.steps * upload_seconds(w.bytes_up, w.messages_up, w.device, server) + _adapters_up(w, server)
    down = w.steps * download_seconds(w.bytes_down, w.messages_down, w.device, server) + _adapters_down(w, server)
    serve = w.steps * compute_seconds(w.server_flops, server)
    # sums in another order than the timeline's may differ in the last digit
    wait = max(0.0, seconds - (compute + up + serve + down))
    joules = None if w.device.watts is None else w.device.watts * (compute + up + down)
    return ClientTime(compute, up, serve, down, wait, finished, joules)


def _adapters_up(w: ClientWork, server: Device) -> float:
    return upload_seconds(w.adapter_bytes_up, 1, w.device, server) if w.adapter_bytes_up else 0.0


def _adapters_down(w: ClientWork, server: Device) -> float:
    return download_seconds(w.adapter_bytes_down, 1, w.device, server) if w.adapter_bytes_down else 0.0
