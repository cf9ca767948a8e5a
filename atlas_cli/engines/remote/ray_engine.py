"""Clients in processes of a Ray cluster (Moritz et al., 1712.05889): Ray places, moves and watches, atlas calls.

A process (an actor) serves several clients through one ``ClientHost``. The frozen half is in the object store once a
node, where its processes use it without copying. Ray restarts nothing and repeats nothing: a restarted actor would
answer with a fresh state. A process that died or hung is replaced before the next round, and its clients, whose record
the server's process keeps, go on in the new one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self, cast

import torch

from atlas_cli.engines.own_step import OnStep
from atlas_cli.engines.remote.arrays import Array, size_of, to_array
from atlas_cli.engines.remote.cluster import nodes, require_room, room
from atlas_cli.engines.remote.host import Answer, ClientSetup, LostCall, Result, SentMessage, Ticket, Who
from atlas_cli.engines.remote.process_memory import ProcessMemory
from atlas_cli.engines.remote.ray_process import NotReadyError, Process
from atlas_cli.engines.remote.sent_state import SentState
from atlas_cli.engines.remote.steps import remote_steps
from atlas_cli.errors import AtlasError
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batches_of
from atlas_cli.federation.client_state.new_client import needs_output
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.models.frozen.skeleton import Skeleton, contents_sha256, take_apart
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.units import parse_time
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Direction

WAYS: tuple[Direction, ...] = ("up", "down")
START = 120.0  # seconds that a process may at least take to import what it needs, on a busy node


class RayEngine:
    """Runs the clients of a federation on a cluster; a context manager, at whose end no actor of it is left.

    Args:
        ray: the connected module.
        note: called with a description of the cluster, and with the processes that were replaced.

    Raises:
        ConfigError: no room for what is asked, or nodes with other software.
    """

    def __init__(self, federation: Federation, ray: Any, note: Callable[[str], None]) -> None:
        self.federation, self.ray, self.note = federation, ray, note
        config, self._engine = federation.config, federation.config.engine
        self._timeout = parse_time(self._engine.timeout)
        self._wanted, self._needed = self._asked(ProcessMemory.of(federation))
        self._config = ray.put(config)
        self._bases, self._weights = self._carried()
        self._made: dict[str, Any] = {}
        self._processes: list[Process] = []
        self._numbers = {client: number for number, client in enumerate(federation.clients)}
        self._places: dict[str, int] = {}
        self._under_way: dict[Ticket, Process] = {}
        self._ledgers: list[Ledger] = []
        self.moved: Counter[str] = Counter()
        self.replaced = 0

    def __enter__(self) -> Self:
        try:
            self._fill()
        except BaseException:
            self._kill_all()
            raise
        used = {process.node for process in self._processes}
        self.note(
            f"ray {self.ray.__version__}: processes for clients: {len(self._processes)}, on {len(used)} of "
            f"{len(nodes(self.ray))} nodes, torch threads each: {torch.get_num_threads()}"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()

    def local_steps(
        self,
        federation: Federation,
        attendance: Attendance,
        ledger: Ledger,
        on_step: OnStep,
    ) -> dict[str, LocalWork]:
        """As ``in_process.local_steps``."""
        self._ledgers.append(ledger)
        try:
            self._fill()
            self._under_way = {}
            self._assign(attendance.present)
            return remote_steps(federation, self, attendance, ledger, on_step)
        except SystemExit:  # how Ray ends a process whose own node is gone
            raise AtlasError("the node of the cluster that the server's process belongs to has died") from None

    def place(self, client: str) -> int:
        """The process that serves a client in this round."""
        return self._places[client]

    def start(self, who: Who, method: str, *args: Any) -> Ticket:
        """Call a method for a client, or for several of one process, without waiting for the answer."""
        first = who if isinstance(who, str) else who[0]
        process = self._processes[self._places[first]]
        process.heard = max(process.heard, time.monotonic()) if self._idle(process) else process.heard
        if method == "begin":
            args = (None if first in process.known_clients else self._made_for(first), *args)
            process.known_clients.add(first)
        self._count("to clients", args)
        reference = process.actor.call.remote(method, who, *args)
        self._under_way[reference] = process
        return cast(Ticket, reference)

    def next(self, tickets: Collection[Ticket]) -> tuple[Ticket, Result]:
        """Wait for the next of these calls to be answered or lost."""
        while True:
            ready, _ = self.ray.wait(list(tickets), num_returns=1, timeout=1.0)
            if ready:
                return ready[0], self._result(ready[0])
            for process in {self._under_way[ticket] for ticket in tickets}:
                self._hear(process)
                if process.alive and time.monotonic() - process.heard > self._timeout:
                    process.kill(f"gave no answer within {self._engine.timeout}")

    def unchanged(self) -> bool:
        """Whether the frozen weights of every remaining process are unchanged; False if none remains."""
        asked = [(process, process.actor.unchanged.remote()) for process in self._processes if process.alive]
        answers = []
        for process, reference in asked:
            try:
                answers.append(self.ray.get(reference, timeout=self._timeout))
            except self.ray.exceptions.RayError:
                self.note(f"warning: process {process.pid} on {process.node} ended before it could say what it holds")
        return bool(answers) and all(answers)

    def record(self) -> dict[str, Any]:
        """For the manifest: the processes, and the bytes moved besides those of the protocol's messages."""
        clients = list(self.federation.clients)
        return {
            "version": self.ray.__version__,
            "nodes": len(nodes(self.ray)),
            "processes": Counter(process.node for process in self._processes),
            "replaced": self.replaced,
            "threads": torch.get_num_threads(),
            "moved_bytes": dict(self.moved),
            "ledger_bytes": {way: sum(each.total(way, clients) for each in self._ledgers) for way in WAYS},
        }

    def _result(self, reference: Ticket) -> Result:
        process, errors = self._under_way.pop(reference), self.ray.exceptions
        process.heard = time.monotonic()
        try:
            result = self.ray.get(reference)
        except errors.RayTaskError as error:
            process.to_replace = True  # after the round, as the state after an unforeseen error is unknown
            return LostCall(f"raised {' '.join(str(error.cause).split())[:300]}")
        except errors.RayError:
            process.kill(process.reason or f"its process {process.pid} on {process.node} died")
            return LostCall(process.reason)
        if isinstance(result, Answer):
            self._count("from clients", result.value)
        return result

    def _assign(self, clients: Collection[str]) -> None:
        """Clients to processes, as evenly as can be; each has one where it goes if there is room.

        A pure function of who takes part and of how many processes there are: a resumed run has the same passes.
        """
        processes = len(self._processes)
        load, (least, more) = Counter[int](), divmod(len(clients), processes)
        self._places = {}
        for client in clients:
            index = self._numbers[client] % processes
            if load[index] >= least + (more > 0):
                index = min(range(processes), key=load.__getitem__)
            more -= load[index] == least
            load[index] += 1
            self._places[client] = index

    def _fill(self) -> None:
        """Replace processes that died, hung or met an error, with as many as there is room for."""
        for process in self._processes:
            if process.alive and process.to_replace:
                process.kill("it met an error in the round before")
        lost = [process for process in self._processes if not process.alive]
        wanted = min(self._wanted, max(1, room(self.ray, self._needed)))
        self._processes = [process for process in self._processes if process.alive]
        for process in lost:
            self.replaced += 1
            self.note(f"a process of the cluster is replaced: {process.reason}")
        made = [self._new() for _ in range(wanted - len(self._processes))]
        deadline = time.monotonic() + (START if self._processes else max(self._timeout, START))
        for process in made:
            self._processes.append(process)
            try:
                process.require_ready(deadline, self._weights, self._has_room)
            except NotReadyError as error:
                process.kill(str(error))
                self._processes.remove(process)
                if not self._processes:
                    raise
                self._wanted = len(self._processes)  # or every round would wait
                self.note(f"warning: {error}; going on with {len(self._processes)}")

    def _has_room(self) -> bool:
        """For the processes that there are, those that are being made among them."""
        return room(self.ray, self._needed) >= len(self._processes)

    def _new(self) -> Process:
        engine = self._engine
        device = "cuda" if engine.gpus else "cpu"  # a process sees the GPUs that it was given, from number 0
        options = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "memory": int(self._needed["memory"])}
        return Process(self.ray, options, self._config, self._bases, device, torch.get_num_threads())

    def _carried(self) -> tuple[dict[WeightFormat, Any], dict[WeightFormat, str]]:
        """What clients hold of the base, by format, in the object store, and its hashes."""
        federation = self.federation
        references, hashes = {}, {}
        for format, base in federation.bases.items():
            cut = max(kind.cut for kind in federation.plan.kinds if kind.format == format) if federation.split else None
            skeleton, tensors = take_apart(base, cut, needs_output(federation.config, federation.plan.kinds))
            hashes[format] = contents_sha256(tensors)
            content: tuple[Skeleton, list[Array]] = (skeleton, [to_array(tensor) for tensor in tensors])
            references[format] = self.ray.put(content)
        return references, hashes

    def _asked(self, memory: ProcessMemory) -> tuple[int, dict[str, float]]:
        """How many processes, and what each needs: the fewer there are, the more clients' texts are in one."""
        engine = self._engine

        def needed(processes: int) -> dict[str, float]:
            return {"CPU": engine.cpus, "GPU": engine.gpus, "memory": float(memory.reserved(processes))}

        possible = (n for n in range(memory.clients, 0, -1) if room(self.ray, needed(n)) >= n)
        wanted = engine.hosts or next(possible, 1)
        require_room(self.ray, needed(wanted), wanted)
        return wanted, needed(wanted)

    def _made_for(self, client: str) -> Any:
        if client not in self._made:
            plan = self.federation.plan
            planned = plan.by_name[client]
            made = ClientSetup(planned, batches_of(self.federation, client), plan.above(planned.cut))
            self._made[client] = self.ray.put(made)
        return self._made[client]

    def _hear(self, process: Process) -> None:
        """Answers that nobody waits for just now are a sign of life, too."""
        own = [reference for reference, of in self._under_way.items() if of is process]
        ready, _ = self.ray.wait(own, num_returns=len(own), timeout=0) if own else ([], [])
        if new := set(ready) - process.answered:
            process.answered |= new
            process.heard = time.monotonic()

    def _idle(self, process: Process) -> bool:
        return not any(of is process for of in self._under_way.values())

    def _count(self, way: str, value: Any) -> None:
        if isinstance(value, SentState):
            self.moved[f"state {way}"] += sum(map(size_of, value.packed))
        elif isinstance(value, SentMessage):
            self.moved[f"steps {way}"] += size_of(value.tensors)
        elif isinstance(value, dict):
            self.moved[f"steps {way}"] += size_of(value)
        elif type(value) is tuple:  # those above are tuples, too
            for part in value:
                self._count(way, part)

    def _kill_all(self) -> None:
        for process in self._processes:
            if process.alive:
                process.kill("the run ended")
        self._processes = []
