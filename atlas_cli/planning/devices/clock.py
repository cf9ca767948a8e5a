"""The virtual clock: how long a round would take on the devices of a plan, whatever machine simulates it.

A pure function of FLOPs, bytes, messages and device figures. A local step of a client is: forward, upload, the
server's forward and backward, download, backward, each with the figures of that step's own batch: who waits for whom
differs from step to step, as batches differ in length. A client that gets no gradient (``learns: frozen`` or
``auxiliary``) goes on after its upload, and a step in which it sends nothing is none of the server's. What the server
does when several clients want it depends on its update:

    pooled       a worker a client, which begins a step when the step before is done for all clients of the group
    per-client   a worker a client; nobody waits for anybody before the end of the round
    sequential   one worker, which serves all clients in their order, step after step (SplitFed V2)

The first two are the parallel server. At the end of the round clients send their adapters, the server merges a
group's when its last has come, and delivers them; what it computes for that (the merge, codecs of adapters) takes no
time. Links are not shared: a client's transfer goes at the slower of its own rate and the server's. A device that has a
trace has its rates by the virtual time at which a round began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from atlas_cli.planning.devices.cost import compute_seconds, download_seconds, upload_seconds
from atlas_cli.planning.devices.devices import Device

ServerUpdate = Literal["pooled", "per-client", "sequential"]


class LocalStep(NamedTuple):
    """The work and transfers of one local step.

    Attributes:
        forward_flops, backward_flops: the client's work, before its upload and after its download.
        server_flops: the server's work.
        bytes_up, bytes_down: sent in ``messages_up`` and ``messages_down`` messages.
        waits: whether the client waits for the server, which sends it something.
    """

    forward_flops: float
    backward_flops: float
    server_flops: float
    bytes_up: float
    bytes_down: float
    messages_up: int = 1
    messages_down: int = 1
    waits: bool = True


@dataclass(frozen=True)
class ClientWork:
    """The work of a client in a round.

    Attributes:
        task_group: the group with whose clients its adapters are merged.
        device: its device, which must have compute, uplink and downlink.
        steps: its local steps in order.
        adapter_bytes_up, adapter_bytes_down: sent at the end of the round, in as many messages as given; 0 sends none.
        slowdown: a factor on the client's own computing and transfers.
        dropped: whether it stopped after these steps, so that nobody waits for it at the merge.
        late: whether its last step came too late, so that nobody waited for that one either.
        encode_flops: its work before it sends its adapters; ``decode_flops``: after it has got them. None of clients
            that wait for nobody, which send adapters as they are.
    """

    name: str
    task_group: str
    device: Device
    steps: Sequence[LocalStep]
    adapter_bytes_up: float = 0
    adapter_bytes_down: float = 0
    adapter_messages_up: int = 1
    adapter_messages_down: int = 1
    slowdown: float = 1.0
    dropped: bool = False
    late: bool = False
    encode_flops: float = 0.0
    decode_flops: float = 0.0

    @property
    def encoding(self) -> float:
        """Seconds of encoding its adapters."""
        return self.slowdown * compute_seconds(self.encode_flops, self.device)

    @property
    def decoding(self) -> float:
        """Seconds of decoding those that are delivered to it."""
        return self.slowdown * compute_seconds(self.decode_flops, self.device)

    def forward(self, step: LocalStep) -> float:
        """Seconds of a step's forward on the client."""
        return self.slowdown * compute_seconds(step.forward_flops, self.device)

    def backward(self, step: LocalStep) -> float:
        """Seconds of a step's backward on the client."""
        return self.slowdown * compute_seconds(step.backward_flops, self.device)

    def up(self, step: LocalStep, server: Device, at: float | None = None) -> float:
        """Seconds of a step's uploads from a virtual time on; None: at the mean rate of a device that has a trace."""
        return upload_seconds(step.bytes_up, step.messages_up, self.device, server, at, self.slowdown)

    def down(self, step: LocalStep, server: Device, at: float | None = None) -> float:
        """Seconds of a step's downloads, as ``up``."""
        return download_seconds(step.bytes_down, step.messages_down, self.device, server, at, self.slowdown)

    def adapters_up(self, server: Device, at: float | None = None) -> float:
        """Seconds of the upload at the end of the round, as ``up``."""
        size, messages = self.adapter_bytes_up, self.adapter_messages_up
        return upload_seconds(size, messages, self.device, server, at, self.slowdown) if size else 0.0

    def adapters_down(self, server: Device, at: float | None = None) -> float:
        """Seconds of the delivery at the end of the round, as ``up``."""
        size, messages = self.adapter_bytes_down, self.adapter_messages_down
        return download_seconds(size, messages, self.device, server, at, self.slowdown) if size else 0.0

    def own_seconds(self, server: Device, began: float) -> float:
        """Its computing and transfers from a virtual time on, one after another, without anybody's else."""
        now = began
        for step in self.steps:
            now += self.forward(step)
            now += self.up(step, server, now)
            now += self.down(step, server, now)
            now += self.backward(step)
        now += self.encoding
        now += self.adapters_up(server, now)
        return now + self.adapters_down(server, now) + self.decoding - began


@dataclass
class Transfers:
    """The seconds that a client's transfers took: those of its steps, and those of adapters."""

    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    adapters_up: float = 0.0
    adapters_down: float = 0.0


@dataclass(frozen=True)
class ClientTime:
    """The simulated seconds of a client in a round; its five parts sum to the round's unless it came too late.

    Attributes:
        compute, upload, download: the client's own work and transfers.
        server: the time that the server works on this client's batches, where the client waits for it.
        wait: the time spent waiting for other clients at the server, at the merge and at the end of the round.
        finished: when the client had done its local steps and sent its adapters.
        joules: watts times the seconds of computing and transfers; None if watts are not known.
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
    """The simulated time of one round.

    Attributes:
        seconds: the time until the last client has the merged adapters.
        joules: the sum over all clients; None if the watts of any are not known.
    """

    seconds: float
    clients: dict[str, ClientTime]
    joules: float | None

    def after(self, idle: float) -> RoundTime:
        """The same after so many seconds in which all waited for clients that could not be reached."""
        later = {
            name: replace(each, wait=each.wait + idle, finished=each.finished + idle)
            for name, each in self.clients.items()
        }
        return RoundTime(self.seconds + idle, later, self.joules)


def round_time(
    works: Sequence[ClientWork],
    server: Device,
    server_update: ServerUpdate = "pooled",
    *,
    merge: bool = True,
    waited: float = 0.0,
    began: float | None = None,
) -> RoundTime:
    """Compute the simulated time of a round.

    Args:
        works: the work of the clients that take part; the sequential server serves them in this order.
        server: the server's device, which must have compute; without link figures those of clients decide.
        merge: False if nothing is aggregated, so that clients do not wait for their group.
        waited: the time that the server waits for clients that do not answer; nothing is merged before.
        began: the virtual time, by which devices with a trace have their rates; None: they have their mean ones.

    Raises:
        ValueError: no client, two of one name, or a figure that a device does not have.
    """
    names = [w.name for w in works]
    if not works or len(set(names)) < len(names):
        raise ValueError("a round needs clients, each with a name of its own")
    took = {w.name: Transfers() for w in works}
    last_backward, served = _steps(works, server, server_update, began, took)
    finished = {}
    for w in works:
        encoded = last_backward[w.name] + w.encoding
        took[w.name].adapters_up = w.adapters_up(server, _later(began, encoded))
        finished[w.name] = encoded + took[w.name].adapters_up
    kept = [w for w in works if not w.dropped]
    merged = {w.task_group: waited for w in kept}
    for w in kept:
        merged[w.task_group] = max(merged[w.task_group], finished[w.name])
    delivered = []
    for w in works:
        ready = merged[w.task_group] if merge and not w.dropped else finished[w.name]
        took[w.name].adapters_down = w.adapters_down(server, _later(began, ready))
        if not w.dropped:
            delivered.append(ready + took[w.name].adapters_down + w.decoding)
    seconds = max(waited, served, *(delivered or finished.values()))
    clients = {w.name: client_time(w, server, seconds, finished[w.name], took[w.name]) for w in works}
    joules = [c.joules for c in clients.values()]
    return RoundTime(seconds, clients, None if None in joules else sum(j for j in joules if j is not None))


def _later(began: float | None, seconds: float) -> float | None:
    """The virtual time so long after a round began."""
    return None if began is None else began + seconds


def _steps(
    works: Sequence[ClientWork],
    server: Device,
    server_update: ServerUpdate,
    began: float | None,
    took: Mapping[str, Transfers],
) -> tuple[dict[str, float], float]:
    """When each client has finished its last local step, and when the server has done the work that none waits for.

    What transfers took is added to ``took``.
    """
    alone = 0.0
    ready = {w.name: 0.0 for w in works}
    worker_free = 0.0
    group_done = {w.task_group: 0.0 for w in works}
    for number in range(max(len(w.steps) for w in works)):
        active = [(w, w.steps[number]) for w in works if number < len(w.steps)]
        served = {}
        for w, step in active:
            begin = ready[w.name] + w.forward(step)
            took[w.name].up.append(up := w.up(step, server, _later(began, begin)))
            begin += up
            if not step.waits:
                took[w.name].down.append(w.down(step, server, _later(began, begin)))
                ready[w.name] = begin + w.backward(step)
                if not step.messages_up:
                    continue
            if server_update == "sequential":
                begin = max(begin, worker_free)
            elif server_update == "pooled":
                begin = max(begin, group_done[w.task_group])
            served[w.name] = worker_free = begin + compute_seconds(step.server_flops, server)
            if step.waits:
                took[w.name].down.append(down := w.down(step, server, _later(began, served[w.name])))
                ready[w.name] = served[w.name] + down + w.backward(step)
            else:
                alone = max(alone, served[w.name])
        for w, _ in active:
            if w.name in served and not (w.late and number == len(w.steps) - 1):
                group_done[w.task_group] = max(group_done[w.task_group], served[w.name])
    return ready, alone


def client_time(
    w: ClientWork, server: Device, seconds: float, finished: float, took: Transfers | None = None
) -> ClientTime:
    """Where a client's time went in so many seconds, after ``finished`` of which it had sent its adapters.

    Args:
        took: what its transfers took; None: as long as at any other time.
    """
    took = _steady(w, server) if took is None else took
    compute = sum(w.forward(step) + w.backward(step) for step in w.steps) + w.encoding + w.decoding
    up, down = sum(took.up) + took.adapters_up, sum(took.down) + took.adapters_down
    serve = sum(compute_seconds(step.server_flops, server) for step in w.steps if step.waits)
    # sums in another order than the timeline's may differ in the last digit
    wait = max(0.0, seconds - (compute + up + serve + down))
    return ClientTime(compute, up, serve, down, wait, finished, _joules(w.device, compute + up + down))


def _steady(w: ClientWork, server: Device) -> Transfers:
    """What transfers take that take the same at any time."""
    steps = [w.up(step, server) for step in w.steps], [w.down(step, server) for step in w.steps]
    return Transfers(*steps, w.adapters_up(server), w.adapters_down(server))


def time_so_far(
    w: ClientWork, server: Device, step: int, seconds: float, left: float, took: Transfers | None = None
) -> ClientTime:
    """Where a client's time went that is still on its way, by what its next message and what came before it take.

    Args:
        step: the local step, from 0, of which the message has the activations; the number of all for the adapters.
        seconds: from the client's start until the message reaches the server.
        left: how many of these seconds are still to come.
        took: what its transfers take, to that message; None: as long as at any other time.
    """
    adapters, last = step == len(w.steps), w.steps[step - 1] if step else None
    took = _steady(w, server) if took is None else took
    before = Transfers(took.up[:step], took.down[:step], 0.0, took.adapters_down)
    so_far = client_time(replace(w, steps=w.steps[:step]), server, seconds, seconds, before)
    up = took.adapters_up if adapters else took.up[step]
    forward = 0.0 if adapters else w.forward(w.steps[step])
    spent = {
        "upload": so_far.upload + up,
        "compute": so_far.compute + forward,
        "download": so_far.download,
        "server": so_far.server,
    }
    ahead = {
        "upload": up,
        "compute": forward + (w.backward(last) if last else 0.0),
        "download": took.down[step - 1] if last else took.adapters_down,
        "server": compute_seconds(last.server_flops, server) if last else 0.0,
    }
    now = max(0.0, seconds - left)
    for part, takes in ahead.items():  # from the last on
        spent[part] = max(0.0, spent[part] - min(left, takes))
        left -= min(left, takes)
    own = spent["compute"] + spent["upload"] + spent["download"]
    return ClientTime(**spent, wait=max(0.0, now - own - spent["server"]), finished=now, joules=_joules(w.device, own))


def with_delivery(time: ClientTime, device: Device, seconds: float) -> ClientTime:
    """The time of a client whose device then downloads for so many seconds."""
    more = _joules(device, seconds)
    joules = None if time.joules is None or more is None else time.joules + more
    return replace(time, download=time.download + seconds, joules=joules)


def _joules(device: Device, seconds: float) -> float | None:
    """Of so many seconds in which a device works; None if its watts are not known."""
    return None if device.watts is None else device.watts * seconds
