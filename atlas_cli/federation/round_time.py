"""Each round's time on the virtual clock, from devices and the FLOPs and bytes of real batches and messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from atlas_cli.federation.batches import batches_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.planning.cohort import slowdowns
from atlas_cli.planning.devices.clock import ClientWork, LocalStep, RoundTime, round_time
from atlas_cli.planning.devices.cost import Work, compute_seconds, download_seconds, upload_seconds
from atlas_cli.planning.devices.devices import Device, server_device
from atlas_cli.planning.plan import ClientPlan
from atlas_cli.planning.round_bytes import RoundMessages, Shape, round_messages
from atlas_cli.planning.step_flops import codec_flops, end_flops, step_flops
from atlas_cli.runs.schemas import KINDS
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import STEP, Activations, Direction, Fingerprint

WAYS: tuple[Direction, ...] = ("up", "down")
STEP_KINDS = tuple(message.kind for message in STEP)


def simulate(
    federation: Federation,
    trained: Mapping[str, LocalWork],
    ledger: Ledger,
    *,
    dropped: Collection[str] = (),
    late: Collection[str] = (),
    waited: float = 0.0,
    idle: float = 0.0,
) -> RoundTime | None:
    """The round on the virtual clock; None unless it is a split run and every client's device has rate and links.

    Args:
        dropped: clients whose work ended before the round did.
        late: those of them whose last step came after the deadline.
        waited: virtual seconds that the server waited for the late ones.
        idle: virtual seconds before the round in which too few clients could be reached.
    """
    config = federation.config
    devices, server = federation.devices, server_device(config)
    slow = slowdowns(config, federation.client_plans(trained))
    works, counted = [], StepFlops(federation)
    for client, did in trained.items():
        device = devices.get(client)
        if not federation.split or device is None or device.lacks("compute", "uplink", "downlink"):
            return None
        if did.steps:
            work = _work(counted, client, device, did, ledger)
            factor = slow.get(client, 1.0)
            works.append(replace(work, slowdown=factor, dropped=client in dropped, late=client in late))
    if not works or server.lacks("compute"):
        return None
    update, merge = config.training.server_update, federation.aggregator.exchanges
    began = None if federation.clock is None else federation.clock.now
    found = round_time(works, server, update, merge=merge, waited=waited, began=began)
    return found.after(idle) if idle else found


def work_of_pass(federation: Federation, client: str, number: int) -> ClientWork:
    """The work of a client in the local steps of a round, and in its messages around them, by closed form."""
    config, planned = federation.config, federation.plan.by_name[client]
    task = federation.data[planned.task_group].task
    batches, first = batches_of(federation, client), (number - 1) * config.training.local_steps
    counted, known, steps = StepFlops(federation), dict[Shape, RoundMessages](), []
    for step in range(config.training.local_steps):
        rows, tokens = batches.at(first + step).input_ids.shape
        shape = Shape(rows, tokens, rows > 1)
        if shape not in known:
            known[shape] = round_messages(federation.plan, planned, task, shape)
        sent = known[shape].step
        [(own, of_server)] = counted.of(client, LocalWork(shapes=[(rows, tokens)], alone=[None], sent=[True]))
        messages = sent.up, sent.down, sent.messages_up, sent.messages_down
        steps.append(LocalStep(own.forward, own.backward, of_server, *messages))
    last = known[shape]
    ends = sum(last.end_up), sum(last.end_down), len(last.end_up), len(last.end_down)
    slow = slowdowns(config, [planned]).get(client, 1.0)
    return ClientWork(client, planned.task_group, federation.devices[client], steps, *ends, slow)


class OwnTime:
    """Virtual seconds that clients have computed and transferred in a round so far, without waiting for anybody.

    Every client must have a device with compute and links.
    """

    def __init__(self, federation: Federation, clients: Iterable[str]) -> None:
        self.federation = federation
        self._devices, self._server = federation.devices, server_device(federation.config)
        self._slow = slowdowns(federation.config, federation.client_plans(clients))
        self._counted = StepFlops(federation)
        self._flops: dict[str, tuple[int, float]] = {}  # steps counted so far, and their FLOPs

    def seconds(self, client: str, did: LocalWork, ledger: Ledger) -> float:
        """The seconds of one client, from its batches and from all messages it sent and received."""
        counted, flops = self._flops.get(client, (0, 0.0))
        flops += sum(own.total for own, _ in self._counted.of(client, did, counted))
        self._flops[client] = len(did.shapes), flops
        flops += sum(_end_flops(self.federation, client, ledger))
        device = self._devices[client]
        if (clock := self.federation.clock) is not None and device.traces is not None:
            work = _work(self._counted, client, device, did, ledger)
            return replace(work, slowdown=self._slow.get(client, 1.0)).own_seconds(self._server, clock.now)
        seconds = compute_seconds(flops, device)
        for kind in KINDS:
            if up := ledger.entry(client, kind, "up"):
                seconds += upload_seconds(up.bytes, up.messages, device, self._server)
            if down := ledger.entry(client, kind, "down"):
                seconds += download_seconds(down.bytes, down.messages, device, self._server)
        return self._slow.get(client, 1.0) * seconds


class StepFlops:
    """FLOPs of local steps on padded batches, or on texts by themselves; of clients that are alike they are counted
    once."""

    def __init__(self, federation: Federation) -> None:
        self.federation, self._known = federation, dict[Any, tuple[Work, float]]()

    def of(self, client: str, did: LocalWork, first: int = 0) -> list[tuple[Work, float]]:
        """FLOPs of the client and of the server for each of its steps, from the ``first`` on."""
        ranks, planned = self.federation.aggregator.members[client].ranks, self.federation.plan.by_name[client]
        group = self.federation.group_of(client)
        trained = self.federation.clients[client].exchanged.trained_parts
        coded = planned.key if planned.wire.by_kind() else None
        kind = group, planned.cut, planned.checkpointing, planned.learns, tuple(ranks.items()), trained, coded
        found = []
        for shape in zip(did.shapes[first:], did.alone[first:], did.sent[first:], strict=True):
            if (kind, shape) not in self._known:
                self._known[kind, shape] = self._count(planned, group, ranks, trained, *shape)
            found.append(self._known[kind, shape])
        return found

    def _count(
        self,
        planned: ClientPlan,
        group: str,
        ranks: Mapping[str, int],
        trained: Collection[str],
        shape: tuple[int, int],
        alone: tuple[int, ...] | None,
        sent: bool,
    ) -> tuple[Work, float]:
        task = self.federation.data[group].task
        padded = Shape(*shape, shape[0] > 1)
        of_client, of_server = step_flops(self.federation.plan, planned, ranks, task, padded, trained, alone)
        encoding, decoding = codec_flops(self.federation.plan, planned, padded, alone)
        if sent or planned.learns == "frozen":
            return of_client + encoding, of_server + decoding
        return of_client, 0.0


def _work(counted: StepFlops, client: str, device: Device, did: LocalWork, ledger: Ledger) -> ClientWork:
    up, down = (_by_step(ledger, client, way, did) for way in WAYS)
    waits = counted.federation.plan.by_name[client].waits
    steps = [
        LocalStep(own.forward, own.backward, of_server, sum(sent), sum(got), len(sent), len(got), waits)
        for (own, of_server), sent, got in zip(counted.of(client, did), up, down, strict=True)
    ]
    ends = [
        [size for kind in KINDS if kind not in STEP_KINDS for size in ledger.sizes(client, kind, way)] for way in WAYS
    ]
    (sent_last, got_last), (up_last, down_last) = map(sum, ends), map(len, ends)
    group = counted.federation.group_of(client)
    encoding, decoding = _end_flops(counted.federation, client, ledger)
    ends_in = sent_last, got_last, up_last, down_last
    return ClientWork(client, group, device, steps, *ends_in, encode_flops=encoding, decode_flops=decoding)


def _end_flops(federation: Federation, client: str, ledger: Ledger) -> tuple[float, float]:
    """FLOPs of encoding what a client sent at the end of a round, and of decoding what it got."""
    sent, got = (ledger.coded(client, name) for name in ("adapters", "deliveries"))
    return end_flops(federation.plan.by_name[client], sent, got)


def _by_step(ledger: Ledger, client: str, way: Direction, did: LocalWork) -> list[list[int]]:
    """Sizes of the messages of each step; an empty batch has none, and not every step sends activations.

    The batches of a fingerprint came before, and go with the first step; what was sent in a step that its client did
    not end goes with the last that it did.
    """
    sent: list[list[int]] = [[] for _ in did.shapes]
    fingerprinted = bool(ledger.sizes(client, Fingerprint.kind, "up"))
    for kind in STEP_KINDS:
        sends = did.sent if kind == Activations.kind else [True] * len(sent)
        steps = zip(sent, did.shapes, sends, strict=True)
        full = [messages for messages, (batch, _), some in steps if batch and some] or sent
        sizes = ledger.sizes(client, kind, way)
        before = max(0, len(sizes) - len(full)) if fingerprinted else 0
        for number, size in enumerate(sizes):
            full[min(max(number - before, 0), len(full) - 1)].append(size)
    return sent
