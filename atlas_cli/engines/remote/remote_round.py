"""A round of clients that compute elsewhere: gradients are added up in the clients' order.

The server's process keeps a record of every client: its adapters, moments and head as of the last round's end. A client
begins a round with that and what it was delivered, and the record takes over what it ends with; one that is lost on the
way goes back to its record. A pooled or per-client update serves clients as they answer, a sequential one in its order;
gradients are added up in the clients' order in every case, so that results do not depend on who is faster.
"""

from __future__ import annotations

import copy
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from atlas_cli.data.collate import Batch
from atlas_cli.engines.passes import server_shares
from atlas_cli.engines.remote.arrays import pack, unpack
from atlas_cli.engines.remote.host import Answer, Calls, LostCall, NotFinite, PluginFailed, Ticket, Who
from atlas_cli.engines.remote.sent_state import SentState
from atlas_cli.engines.remote.units import Turn, Unit, turns_of
from atlas_cli.errors import AtlasError, NonFiniteError, PluginError, during
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.merging.mean_gradients import share_first_gradients
from atlas_cli.federation.parties.auxiliary_client import AuxiliaryClient
from atlas_cli.federation.parties.exchange import exchange, exchange_all, exchange_rows, exchange_up
from atlas_cli.federation.parties.frozen_client import FrozenClient
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.trainables import GradientSums, StepLoss
from atlas_cli.planning.method import shares_gradients
from atlas_cli.printable import listed
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients

GRAPHS = 4  # units of one process whose activations are kept for their backward at one time
BACKWARDS = ("backward", "backward_together")


class _LostError(Exception):
    """A client was lost while the server waited for it in the middle of a step."""


class _ElsewhereError(Exception):
    """The traceback of an error in another process, for log.txt."""


class _Started(NamedTuple):
    """A call: whose, of what, and the unit that it is of, if any."""

    clients: tuple[str, ...]
    method: str
    unit: Unit | None


class RemoteRound:
    """Runs the local steps of one round.

    Args:
        attendance: the clients that begin; lost clients leave it.
    """

    def __init__(self, federation: Federation, calls: Calls, attendance: Attendance, ledger: Ledger) -> None:
        self.federation, self.calls, self.attendance, self.ledger = federation, calls, attendance, ledger
        self.training = federation.config.training
        self.strict = self.training.on_nonfinite == "drop-client"  # a step may be taken back after the server's part
        self.in_turn = self.training.server_update == "sequential"
        self.done = {client: LocalWork() for client in attendance.present}
        self._under_way: dict[Ticket, _Started] = {}
        self._stepping: set[str] = set()  # those whose backward is not answered
        self._units: dict[str, Unit] = {}  # of each client, until its backward is called
        self._begun: set[Unit] = set()  # those whose activations are kept in their process
        self._alive: Counter[int] = Counter()  # how many are begun, by process
        self._queues: dict[int, deque[Unit]] = {}  # those that are not, by process
        self._arrived: dict[str, Activations | None] = {}
        self._down: dict[str, Gradients | None] = {}
        self._held: dict[Turn, Sequence[GradientSums]] = {}
        self._to_accept: deque[Turn] = deque()
        self._before: dict[str, LocalWork] = {}
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
        for client, value in self._answers():
            if value != members[client].exchanged_sha256():
                raise AtlasError(f"client {client} does not hold, where it runs, what the server delivered to it")

    def split_step(self, units: Sequence[Unit], order: Sequence[str], upcoming: Sequence[Unit] = ()) -> None:
        """One step of clients of a split, the server's part included, up to its own step with pooled gradients.

        Args:
            units: all of its clients.
            order: of the clients, in which a sequential update takes them.
            upcoming: of the next step; their clients go on as soon as they can.
        """
        self._when = units[0].when if units else self._when
        turns = turns_of(self.training, units, order)
        self._to_accept = deque(turns)
        self._units |= {client: unit for unit in units for client in unit.clients}
        self._queues = {}
        for unit in [*(unit for unit in units if unit not in self._begun), *filter(self._may_go_ahead, upcoming)]:
            self._queues.setdefault(unit.place, deque()).append(unit)
        self._begin_units()
        while turns:
            if self.in_turn and (unit := self._units[turns[0][0]]) not in self._begun:  # whatever else is begun
                self._queues[unit.place].remove(unit)
                self._begin(unit)
            first = turns[:1] if self.in_turn else turns
            ready = next((turn for turn in first if all(client in self._arrived for client in turn)), None)
            if ready is None:
                self._receive()
            else:
                turns.remove(ready)
                self._serve(ready)
                self._begin_units()
            turns = [turn for turn in turns if turn[0] in self.attendance.present]  # who shares a turn leaves together
            self._accept()
        while self._to_accept:
            self._receive()
            self._accept()

    def unsplit_step(self, step: int, clients: list[str], batches: Mapping[str, Batch]) -> None:
        """One step of clients that hold the whole model."""
        for client in clients:
            self._start(client, "local_step", self.attendance.number, step)
        for client, loss in self._answers():
            self.done[client].add(batches[client], loss, seconds=0.0)

    def share_first_step(self, clients: Collection[str]) -> None:
        """As ``in_process.share_first_step``."""
        self._answers()  # of the backward
        for client in (c for c in clients if c in self.attendance.present):
            self._start(client, "first_gradients")
        device = self.federation.device
        first = {client: unpack(value, device) for client, value in self._answers()}
        in_order = {client: first[client] for client in clients if client in first}
        for client, mean in share_first_gradients(self.federation.aggregator, in_order, self.ledger).items():
            self._start(client, "take_mean", pack(mean))
        self._answers()

    def end(self) -> None:
        """Load the final state of every client into the server's record."""
        self._answers()  # of the last backward
        for client in list(self.attendance.present):
            self._start(client, "end")
        for client, state in self._answers():
            party = self.federation.clients[client]
            state.load(party, self.federation.aggregator.members[client])
            if party.usage is not None and state.usage is not None:
                vars(party.usage).update(vars(state.usage))

    def answer_features(self, client: str, message: Features) -> tuple[FeatureGradients, StepLoss]:
        """U-shaped split: the client's part between the two parts of the server."""
        _, answer = self._wait([self._start(client, "answer_features", pack(message.tensors))])
        if answer is None:
            raise _LostError
        sent, loss = answer.value
        return FeatureGradients.of(client, unpack(sent.tensors, self.federation.device), *sent[1:]), loss

    def unit_under_way(self, client: str, when: tuple[int, int]) -> Unit | None:
        """The unit of a client and step that was begun ahead of it."""
        unit = self._units.get(client)
        return unit if unit is not None and unit.when == when and unit in self._begun else None

    def _may_go_ahead(self, unit: Unit) -> bool:
        """Whether a unit of the next step may be begun before that: a client that gets no gradient learns in its
        forward."""
        planned = [self.federation.plan.by_name[client] for client in unit.clients]
        poisson = self.federation.config.privacy.examples is not None  # and of an empty sample it steps
        waits = self._when[1] == 0 and shares_gradients(self.federation.config)  # for the gradients of others
        return not poisson and not waits and all(client.waits for client in planned)

    def _begin_units(self) -> None:
        """In their order, as many of a process as it may keep graphs of.

        A process answers calls in their order, so that what a client begins there follows its last backward.
        """
        for place, queue in self._queues.items():
            while queue and self._alive[place] < GRAPHS and self._can_begin(queue[0]):
                self._begin(queue.popleft())

    def _can_begin(self, unit: Unit) -> bool:
        """Whether its clients are done with the step before: it is of this one, or their backward was called."""
        return unit.when == self._when or not any(
            client in self._units or client not in self.attendance.present for client in unit.clients
        )

    def _begin(self, unit: Unit) -> None:
        if unit.clients[0] not in self.attendance.present:
            return
        self._alive[unit.place] += 1
        self._begun.add(unit)
        self._units |= dict.fromkeys(unit.clients, unit)
        if unit.shared:
            self._start(unit.clients, "forward_together", *unit.when, unit=unit)
        else:
            (batch,) = unit.batches.values()
            method = "forward" if batch.features else "step_on_noise"
            self._start(unit.clients[0], method, *unit.when, unit=unit)

    def _close(self, unit: Unit) -> None:
        """Its activations are not kept any more, or nobody asks for them."""
        if unit in self._begun:
            self._begun.remove(unit)
            self._alive[unit.place] -= 1
        for client in unit.clients:
            if self._units.get(client) is unit:
                del self._units[client]

    def _serve(self, turn: Turn) -> None:
        server, unit, began = self.federation.server, self._units[turn[0]], time.perf_counter()
        try:
            answers = self._answered(unit, turn)
        except NonFiniteError as error:
            server.reject()
            self._drop(turn[0], NotFinite(str(error)))
            return
        except _LostError:
            server.reject()
            return
        seconds, whole = time.perf_counter() - began, sum(unit.shares[client] for client in turn)
        if self.strict:
            self._before |= {client: copy.deepcopy(self.done[client]) for client in turn}
        for client, (_, loss) in zip(turn, answers, strict=True):
            self.done[client].add(unit.batches[client], loss, seconds * unit.shares[client] / whole)
        held = server.hold()
        for client in turn:
            if self.attendance.passes_deadline(client, self.done[client], self.ledger, self._when[1]):
                self._close(unit)
                return
        self._held[turn] = held
        self._down |= {client: down for client, (down, _) in zip(turn, answers, strict=True)}
        if all(client in self._down for client in unit.clients):
            self._send_back(unit)

    def _answered(self, unit: Unit, turn: Turn) -> list[tuple[Gradients | None, StepLoss]]:
        """What the server returns for each client of a turn; None: nothing."""
        server, ledger = self.federation.server, self.ledger
        ups = [self._arrived.pop(client) for client in turn]
        parties = [self.federation.split_client(client) for client in turn]
        batches = [unit.batches[client] for client in turn]
        for party, up in zip(parties, ups, strict=True):
            if up is not None:
                party.begin_step(*self._when)
        remotes = [_RemoteClient(party, self) for party in parties]
        if unit.shared and server_shares(self.training):
            return [*exchange_all(server, remotes, batches, [up for up in ups if up is not None], ledger)]
        ((up,), (party,), (remote,), (batch,)) = ups, parties, remotes, batches
        if up is None:
            return [(None, StepLoss(0.0, 0, sent=False))]
        if isinstance(party, FrozenClient):
            return [(None, exchange_rows(server, remote, batch, up, ledger))]
        if isinstance(party, AuxiliaryClient):
            return [(None, exchange_up(server, remote, batch, up, ledger))]
        return [exchange(server, remote, batch, up, ledger)]

    def _send_back(self, unit: Unit) -> None:
        downs = [self._down.pop(client) for client in unit.clients]
        self._close(unit)
        packed = tuple(pack(down.tensors) for down in downs if down is not None)
        if not packed:
            return
        self._stepping.update(unit.clients)
        if unit.shared:
            self._start(unit.clients, "backward_together", packed, *unit.when, unit=unit)
            return
        (client,) = unit.clients
        self._start(client, "backward", *packed, *unit.when, unit=unit)
        while self.strict and self.in_turn and client in self._stepping:
            self._receive()

    def _accept(self) -> None:
        """Let the server take gradients, in the order of turns, as far as it is known who is left."""
        server = self.federation.server
        while self._to_accept:
            turn = self._to_accept[0]
            present = turn[0] in self.attendance.present
            if present and (turn not in self._held or (self.strict and turn[0] in self._stepping)):
                return
            held = self._held.pop(turn, ())
            if present and held:
                server.accept(held)
            self._to_accept.popleft()

    def _start(self, who: Who, method: str, *args: Any, unit: Unit | None = None) -> Ticket:
        ticket = self.calls.start(who, method, *args)
        self._under_way[ticket] = _Started((who,) if isinstance(who, str) else who, method, unit)
        return ticket

    def _receive(self) -> None:
        """Wait for one answer; activations are kept until the server takes them."""
        call, answer = self._wait(list(self._under_way))
        if answer is None or call.unit is None or call.unit not in self._begun:  # a backward, or who is out
            return
        device, sent = self.federation.device, answer.value if call.unit.shared else (answer.value,)
        for client, each in zip(call.clients, sent, strict=True):
            self._arrived[client] = Activations.of(client, unpack(each.tensors, device), *each[1:]) if each else None

    def _wait(self, tickets: Collection[Ticket]) -> tuple[_Started, Answer | None]:
        """The next answer, None where the clients are out."""
        ticket, result = self.calls.next(tickets)
        call = self._under_way.pop(ticket)
        back = call.method in BACKWARDS
        if back:
            self._stepping.difference_update(call.clients)
        if isinstance(result, PluginFailed):
            who = f"client {call.clients[0]}" if len(call.clients) == 1 else f"clients {listed(call.clients)}"
            with during(f"{who}, step {self._when[1]}"):
                raise PluginError(result.message) from _ElsewhereError(result.traceback)
        if not isinstance(result, Answer):
            for client in call.clients:
                if self.strict and isinstance(result, NotFinite) and back:
                    vars(self.done[client]).update(vars(self._before[client]))  # its step was not taken
                self._drop(client, result)
            return call, None
        for client in call.clients if call.method not in ("begin", "end") else ():
            if client in self.done:
                self.done[client].seconds += result.seconds * (call.unit.shares[client] if call.unit else 1.0)
        return call, result

    def _answers(self) -> list[tuple[str, Any]]:
        """All that is under way of clients that are present, in their order; who is lost leaves."""
        present = set(self.attendance.present)
        self._under_way = {t: call for t, call in self._under_way.items() if not present.isdisjoint(call.clients)}
        found = {}
        while self._under_way:
            call, answer = self._wait(list(self._under_way))
            if answer is not None:
                found[call.clients[0]] = answer.value
        return [(client, found[client]) for client in list(self.attendance.present) if client in found]

    def _drop(self, client: str, result: NotFinite | LostCall) -> None:
        """A client is lost, and with it those that it shares a pass with."""
        if isinstance(result, NotFinite) and not self.strict:
            raise NonFiniteError(result.message)
        reason = result.message.partition(";")[0] if isinstance(result, NotFinite) else result.reason
        unit = self._units.get(client)
        for each in (client,) if unit is None else unit.clients:
            self._arrived.pop(each, None)
            self._down.pop(each, None)
            if each in self.attendance.present:
                self.attendance.drop(each, reason)
        if unit is not None:
            self._close(unit)


class _RemoteClient:
    """Stands for a client between two of the server's parts of a step."""

    def __init__(self, party: SplitClient, steps: RemoteRound) -> None:
        self.name, self.base, self.privacy, self.wire = party.name, party.base, party.privacy, party.wire
        self.now = party.now
        self._steps = steps

    def answer_features(self, message: Features, labels: torch.Tensor) -> tuple[FeatureGradients, StepLoss]:
        """Its part of a U-shaped step; the labels are with it."""
        return self._steps.answer_features(self.name, message)
