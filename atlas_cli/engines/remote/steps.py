"""The local steps of clients that compute elsewhere: gradients are added up in the clients' order.

The server's process keeps a record of every client: its adapters, moments and head as of the last round's end. A client
begins a round with that and what it was delivered, and the record takes over what it ends with; one that is lost on the
way goes back to its record. A pooled or per-client update serves clients as they answer, a sequential one in its order;
gradients are added up in the clients' order in every case, so that results do not depend on who is faster.
"""

from __future__ import annotations

import copy
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from atlas_cli.data.collate import Batch
from atlas_cli.engines.by_arrival import by_arrival
from atlas_cli.engines.own_step import OnStep
from atlas_cli.engines.passes import begin_round, order_of, takes_step
from atlas_cli.engines.remote.arrays import pack, unpack
from atlas_cli.engines.remote.host import Answer, Calls, LostCall, NotFinite, PluginFailed
from atlas_cli.engines.remote.sent_state import SentState
from atlas_cli.errors import AtlasError, NonFiniteError, PluginError, during
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.merging.mean_gradients import share_first_gradients
from atlas_cli.federation.parties.auxiliary_client import AuxiliaryClient
from atlas_cli.federation.parties.exchange import exchange, exchange_rows, exchange_up
from atlas_cli.federation.parties.frozen_client import FrozenClient
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.trainables import PendingGradients, StepLoss
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.planning.method import shares_gradients
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, FeatureGradients, Features

GRAPHS = 4  # clients of one process whose activations are kept for their backward at one time


class _LostError(Exception):
    """A client was lost while the server waited for it in the middle of a step."""


class _ElsewhereError(Exception):
    """The traceback of an error in another process, for log.txt."""


class RemoteRound:
    """Runs the local steps of one round.

    Args:
        attendance: the clients that begin; lost clients leave it.
    """

    def __init__(self, federation: Federation, calls: Calls, attendance: Attendance, ledger: Ledger) -> None:
        self.federation, self.calls, self.attendance, self.ledger = federation, calls, attendance, ledger
        self.training = federation.config.training
        self.strict = self.training.on_nonfinite == "drop-client"  # a step may be taken back after the server's part
        self.done = {client: LocalWork() for client in attendance.present}
        self._near = Counter(calls.place(client) for client in attendance.present)
        self._under_way: dict[str, str] = {}
        self._arrived: dict[str, Activations | None] = {}
        self._held: dict[str, PendingGradients | None] = {}
        self._to_accept: deque[str] = deque()
        self._before: dict[str, LocalWork] = {}
        self._batches: dict[str, Batch] = {}
        self._when = (0, 0)

    def begin(self) -> None:
        """Send every client its state.

        Raises:
            AtlasError: one does not hold, by hash, what it was delivered.
        """
        members = self.federation.aggregator.members
        for client in self.attendance.present:
            state = SentState.of(self.federation.clients[client], members[client])
            self._start(client, "begin", state)
        for client, answer in self._answers():
            if answer.value != members[client].exchanged_sha256():
                raise AtlasError(f"client {client} does not hold, where it runs, what the server delivered to it")

    def split_step(self, when: tuple[int, int], clients: list[str], batches: Mapping[str, Batch]) -> None:
        """One step of clients of a split, the server's part included, up to its own step with pooled gradients.

        Args:
            when: the round and the step that it is of.
        """
        self._when, self._batches = when, dict(batches)
        self._to_accept = deque(clients)
        unserved = list(clients)
        while unserved:
            self._begin_forwards(unserved)
            first = unserved[:1] if self.training.server_update == "sequential" else unserved
            ready = next((client for client in first if client in self._arrived), None)
            if ready is None:
                self._receive()
            else:
                unserved.remove(ready)
                self._serve(ready)
            unserved = [client for client in unserved if client in self.attendance.present]
            self._accept()
        while self._to_accept:
            self._receive()
            self._accept()

    def unsplit_step(self, step: int, clients: list[str], batches: Mapping[str, Batch]) -> None:
        """One step of clients that hold the whole model."""
        for client in clients:
            self._start(client, "local_step", self.attendance.number, step)
        for client, answer in self._answers():
            self.done[client].add(batches[client], answer.value, seconds=0.0)

    def share_first_step(self, clients: Collection[str]) -> None:
        """As ``in_process.share_first_step``."""
        self._answers()  # of the backward
        for client in (c for c in clients if c in self.attendance.present):
            self._start(client, "first_gradients")
        device = self.federation.device
        first = {client: unpack(answer.value, device) for client, answer in self._answers()}
        in_order = {client: first[client] for client in clients if client in first}
        for client, mean in share_first_gradients(self.federation.aggregator, in_order, self.ledger).items():
            self._start(client, "take_mean", pack(mean))
        self._answers()

    def end(self) -> None:
        """Load the final state of every client into the server's record."""
        for _ in self._answers():  # of the last backward
            pass
        for client in list(self.attendance.present):
            self._start(client, "end")
        for client, answer in self._answers():
            state, party = answer.value, self.federation.clients[client]
            state.load(party, self.federation.aggregator.members[client])
            if party.usage is not None and state.usage is not None:
                vars(party.usage).update(vars(state.usage))

    def answer_features(self, client: str, message: Features) -> tuple[FeatureGradients, StepLoss]:
        """U-shaped split: the client's part between the two parts of the server."""
        self._start(client, "answer_features", pack(message.tensors))
        _, answer = self._wait([client])
        if answer is None:
            raise _LostError
        sent, loss = answer.value
        return FeatureGradients.of(client, unpack(sent.tensors, self.federation.device), *sent[1:]), loss

    def _begin_forwards(self, unserved: list[str]) -> None:
        """In their order, as many of a process as it may keep graphs of."""
        busy = Counter(self.calls.place(client) for client in {*self._under_way, *self._arrived})
        for client in unserved:
            place = self.calls.place(client)
            if client not in self._under_way and client not in self._arrived and busy[place] < GRAPHS:
                busy[place] += 1
                method = "forward" if self._batches[client].features else "step_on_noise"
                self._start(client, method, *self._when)

    def _serve(self, client: str) -> None:
        server, batch, party = self.federation.server, self._batches[client], self.federation.split_client(client)
        up, began = self._arrived.pop(client), time.perf_counter()
        loss, down = StepLoss(0.0, 0, sent=up is not None), None
        if up is not None:
            party.begin_step(*self._when)
            try:
                remote = _RemoteClient(party, self)
                if isinstance(party, FrozenClient):
                    loss = exchange_rows(server, remote, batch, up, self.ledger)
                elif isinstance(party, AuxiliaryClient):
                    loss = exchange_up(server, remote, batch, up, self.ledger)
                else:
                    down, loss = exchange(server, remote, batch, up, self.ledger)
            except NonFiniteError as error:
                server.reject()
                self._drop(client, NotFinite(str(error)))
                return
            except _LostError:
                server.reject()
                return
        if self.strict:
            self._before[client] = copy.deepcopy(self.done[client])
        self.done[client].add(batch, loss, time.perf_counter() - began)
        held = server.hold()
        if self.attendance.passes_deadline(client, self.done[client], self.ledger, self._when[1]):
            return
        self._held[client] = held
        if down is not None:
            last = not takes_step(self.federation, client, self._when[1] + 1)
            poisson = self.federation.config.privacy.examples is not None  # the next sample may be empty
            waits = self._when[1] == 0 and shares_gradients(self.federation.config)  # for the gradients of others
            alone = last or poisson or waits or self._near[self.calls.place(client)] > GRAPHS
            self._start(client, "backward" if alone else "advance", pack(down.tensors), *self._when)
            while self.strict and self.training.server_update == "sequential" and client in self._under_way:
                self._receive()

    def _accept(self) -> None:
        """Let the server take gradients, in the clients' order, as far as it is known who is left."""
        server = self.federation.server
        while self._to_accept:
            client = self._to_accept[0]
            present = client in self.attendance.present
            if present and (client not in self._held or (self.strict and client in self._under_way)):
                return
            held = self._held.pop(client, None)
            if present and held is not None:
                server.accept(held)
            self._to_accept.popleft()

    def _start(self, client: str, method: str, *args: Any) -> None:
        self._under_way[client] = method
        self.calls.start(client, method, *args)

    def _receive(self) -> None:
        """Wait for one answer; activations are kept until the server takes them."""
        client, answer = self._wait(list(self._under_way))
        if answer is not None and answer.method in ("forward", "advance", "step_on_noise"):
            sent, device = answer.value, self.federation.device
            self._arrived[client] = Activations.of(client, unpack(sent.tensors, device), *sent[1:]) if sent else None

    def _wait(self, clients: Collection[str]) -> tuple[str, _Answered | None]:
        """The next answer, None from a client that is out."""
        client, result = self.calls.next(clients)
        method = self._under_way.pop(client)
        if isinstance(result, PluginFailed):
            with during(f"client {client}, step {self._when[1]}"):
                raise PluginError(result.message) from _ElsewhereError(result.traceback)
        if not isinstance(result, Answer):
            if self.strict and isinstance(result, NotFinite) and method in ("backward", "advance"):
                vars(self.done[client]).update(vars(self._before[client]))  # its step was not taken
            self._drop(client, result)
            return client, None
        if client in self.done and method not in ("begin", "end"):
            self.done[client].seconds += result.seconds
        return client, _Answered(method, result.value)

    def _answers(self) -> list[tuple[str, _Answered]]:
        """All that is under way of those that are present; who is lost leaves."""
        for client in self._under_way.keys() - set(self.attendance.present):
            del self._under_way[client]
        found = {}
        while self._under_way:
            client, answer = self._wait(list(self._under_way))
            if answer is not None:
                found[client] = answer
        return [(client, found[client]) for client in list(self.attendance.present) if client in found]

    def _drop(self, client: str, result: NotFinite | LostCall) -> None:
        if isinstance(result, NotFinite) and not self.strict:
            raise NonFiniteError(result.message)
        reason = result.message.partition(";")[0] if isinstance(result, NotFinite) else result.reason
        self._arrived.pop(client, None)
        if client in self.attendance.present:
            self.attendance.drop(client, reason)


@dataclass(frozen=True)
class _Answered:
    method: str
    value: Any


class _RemoteClient:
    """Stands for a client between two of the server's parts of a step."""

    def __init__(self, party: SplitClient, steps: RemoteRound) -> None:
        self.name, self.base, self.privacy, self.wire = party.name, party.base, party.privacy, party.wire
        self.now = party.now
        self._steps = steps

    def answer_features(self, message: Features, labels: torch.Tensor) -> tuple[FeatureGradients, StepLoss]:
        """Its part of a U-shaped step; the labels are with it."""
        return self._steps.answer_features(self.name, message)


def remote_steps(
    federation: Federation,
    calls: Calls,
    attendance: Attendance,
    ledger: Ledger,
    on_step: OnStep,
) -> dict[str, LocalWork]:
    """As ``in_process.local_steps``, with clients that compute elsewhere."""
    training, server, number = federation.config.training, federation.server, attendance.number
    steps = RemoteRound(federation, calls, attendance, ledger)
    steps.begin()
    if federation.under_way is not None:
        return _by_arrival(steps, federation.under_way, on_step)
    server.real_tokens = False
    begin_round(federation, steps.done, number)
    for step in range(training.local_steps):
        overall = (number - 1) * training.local_steps + step
        left = [c for c in order_of(federation, attendance.present, overall) if not attendance.crashes(c, step)]
        left = [client for client in left if takes_step(federation, client, step)]
        batches = {client: batch_of(federation, client, overall) for client in left}
        if not federation.split:
            steps.unsplit_step(step, left, batches)
        else:
            factor = learning_rate_factor(training, overall)
            server.begin_step(step, factor * training.server_optimizer.lr)
            steps.split_step((number, step), left, batches)
        if step == 0 and shares_gradients(federation.config):
            steps.share_first_step(left)
        if federation.split:
            server.finish_step()
        on_step(step, steps.done)
    steps.end()
    return steps.done


def _by_arrival(steps: RemoteRound, under_way: UnderWay, on_step: OnStep) -> dict[str, LocalWork]:
    """The same in the order of the virtual clock; what a client computes next, it computes while others are served."""
    steps.done = {client: under_way.passes[client].did for client in steps.attendance.present}

    def serve(client: str, batch: Batch, when: tuple[int, int], factor: float, did: LocalWork) -> None:
        steps.split_step(when, [client], {client: batch})

    by_arrival(steps.federation, under_way, steps.attendance, steps.ledger, on_step, serve)
    steps.end()
    for client in under_way.passes.keys() & steps.attendance.dropped.keys():
        under_way.stop(client, steps.ledger)
    return steps.attendance.arrived(under_way.end_round())
