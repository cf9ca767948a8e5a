"""The virtual clock of clients that wait for nobody: which message reaches the server next, and when.

A client under way computes, uploads, is served, downloads and computes again, step after step, and at the end sends its
adapters; what it does is a ``ClientWork``, as in a round of ``clock.round_time``. Messages that reach the server at the
same time are taken in the order of the config. So the order of arrivals is a pure function of work, bytes and device
figures; nothing that is computed, and no timing of this machine, changes it.

The server computes as one queue, first come first served, or with a worker for each client.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from atlas_cli.planning.devices.clock import ClientWork, Transfers
from atlas_cli.planning.devices.cost import compute_seconds
from atlas_cli.planning.devices.devices import Device


class Arrival(NamedTuple):
    """A message that reaches the server.

    Attributes:
        at: the virtual time.
        place: the client's place in the config, which orders messages of one time.
        step: the local step, from 0, of which it has the activations; the number of all steps for the adapters.
    """

    at: float
    place: int
    client: str
    step: int


class Arrivals:
    """The messages of the clients that are under way.

    Args:
        server: its device, which must have compute.
        one_queue: whether the server serves one client at a time; else each has a worker.
        now: the virtual time.
        free: when the server has served what came last.
    """

    def __init__(self, server: Device, *, one_queue: bool, now: float = 0.0, free: float = 0.0) -> None:
        self.server, self.one_queue, self.now, self.free = server, one_queue, now, free
        self._works: dict[str, tuple[ClientWork, Transfers | None]] = {}
        self._heap: list[Arrival] = []

    def start(self, place: int, work: ClientWork, at: float, took: Transfers | None = None) -> None:
        """A client starts, with the delivery of its adapters where its work has one.

        Args:
            took: what its transfers take is noted there.
        """
        self._works[work.name] = work, took
        down = work.adapters_down(self.server, at)
        if took is not None:
            took.adapters_down = down
        self._send(at + down, place, work.name, 0)

    def expect(self, arrival: Arrival, work: ClientWork, took: Transfers | None = None) -> None:
        """Take in a client that is under way already: the next message of it, as ``waiting`` has it."""
        self._works[arrival.client] = work, took
        heapq.heappush(self._heap, arrival)

    @property
    def any(self) -> bool:
        """Whether any message is to come."""
        return bool(self._heap)

    def waiting(self) -> list[Arrival]:
        """The next message of each client under way, in the order in which they arrive."""
        return sorted(self._heap)

    def next(self) -> Arrival:
        """Take the next message.

        Raises:
            IndexError: nobody is under way.
        """
        arrival = heapq.heappop(self._heap)
        self.now = arrival.at
        return arrival

    def serve(self, arrival: Arrival) -> None:
        """The server takes the step of a message that has come, and its client goes on to what it sends next."""
        work, took = self._works[arrival.client]
        step = work.steps[arrival.step]
        begun = max(self.now, self.free) if self.one_queue else self.now
        self.free = served = begun + compute_seconds(step.server_flops, self.server)
        down = work.down(step, self.server, served)
        if took is not None:
            took.down.append(down)
        self._send(served + down + work.backward(step), arrival.place, arrival.client, arrival.step + 1)

    def stop(self, client: str) -> None:
        """Forget a client that is under way."""
        self._works.pop(client, None)
        self._heap = [arrival for arrival in self._heap if arrival.client != client]
        heapq.heapify(self._heap)

    def _send(self, ready: float, place: int, client: str, step: int) -> None:
        work, took = self._works[client]
        if step < len(work.steps):
            begun = ready + work.forward(work.steps[step])
            up = work.up(work.steps[step], self.server, begun)
            if took is not None:
                took.up.append(up)
        else:
            begun, up = ready, work.adapters_up(self.server, ready)
            if took is not None:
                took.adapters_up = up
        heapq.heappush(self._heap, Arrival(begun + up, place, client, step))
