"""What pipelining hides of the links between processes: seconds of a round over simulated links.

    python benchmarks/links.py              eight clients in two processes, over four links: about 6 minutes
    python benchmarks/links.py --gpt2       of GPT-2 small's size: about half an hour
    python benchmarks/links.py --json FILE  and keep the figures

Clients compute in hosts of this process, by the calls that an engine makes of processes elsewhere, one after another;
when each would have been done is told by a clock of its own. A process takes one call at a time; its computing takes
the CPU seconds that it took; its link carries one message at a time each way, at a rate, and a message arrives a
latency later. The server's process goes on while others compute, and waits where it has to. So neither the number of
cores nor what else the machine does matters much, and a link costs no time.

"one after another": all computing and all messages on end, as where the server waits for each client. "at least": what
any order takes, the busiest of the server, a process and a link. Hidden is the share of what lies between the two that
does not show. "in one process": the CPU seconds of the same clients beside the server. Local steps alone: states that
go out and come back with a round are not counted. A random BERT of MiniLM's size, cut in the middle, batches of 8
sentences (``benchmarks/engines.py``), client by client and in shared passes (``engine.fuse``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from engines import GPT2, MINILM, experiment

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.engines.in_process import local_steps
from atlas_cli.engines.remote.arrays import size_of
from atlas_cli.engines.remote.host import Answer, ClientHost, ClientSetup, Result, SentMessage, Ticket, Who
from atlas_cli.engines.remote.steps import remote_steps
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.batches import batches_of
from atlas_cli.federation.build import build
from atlas_cli.federation.federation import Federation
from atlas_cli.models.frozen.skeleton import put_together, take_apart
from atlas_cli.units import parse_rate, parse_time
from atlas_cli.wire.ledger import Ledger

CLIENTS, PROCESSES, ROUNDS = 8, 2, 3
LINKS = (("none", "none"), ("1 Gbit/s", "1 ms"), ("100 Mbit/s", "10 ms"), ("20 Mbit/s", "40 ms"))
STATES = ("begin", "end")  # of the calls, those that move the state of a client


@dataclass
class Lane:
    """What takes one thing at a time: until when it is taken, and for how long in all."""

    free: float = 0.0
    busy: float = 0.0

    def take(self, ready: float, seconds: float) -> float:
        """When something that is ready then, and takes so long, is done."""
        self.free = max(self.free, ready) + seconds
        self.busy += seconds
        return self.free


@dataclass
class Figures:
    """Seconds of a round.

    Attributes:
        pipelined: as the engine orders calls; ``in_turn``: all that was done and sent, on end.
        least: the busiest of the server, a process, and a link.
    """

    pipelined: float
    in_turn: float
    least: float

    @property
    def hidden(self) -> float:
        """The share of what could be hidden that is."""
        return (self.in_turn - self.pipelined) / (self.in_turn - self.least)


@dataclass
class SimulatedLinks:
    """Calls of hosts in this process (``atlas_cli.engines.remote.host.Calls``), on a clock of their own.

    Args:
        rate: bytes a second of a link; None: it takes no time.
        latency: seconds until a message arrives.
    """

    federation: Federation
    rate: float | None
    latency: float
    clock: float = 0.0
    server: float = 0.0
    messages: int = 0
    started: int = 0

    def __post_init__(self) -> None:
        self.hosts = [_host(self.federation) for _ in range(PROCESSES)]
        self.order = list(self.federation.clients)
        self.answers: dict[Ticket, tuple[float, Result]] = {}
        self.computing = [Lane() for _ in self.hosts]
        self.up, self.down = [Lane() for _ in self.hosts], [Lane() for _ in self.hosts]
        self._mark = time.process_time()

    def place(self, client: str) -> int:
        """The process of a client."""
        return self.order.index(client) % PROCESSES

    def start(self, who: Who, method: str, *args: Any) -> Ticket:
        """Compute at once, and note when the answer would be here."""
        self._server_worked()
        client = who if isinstance(who, str) else who[0]
        place, ticket = self.place(client), self.started
        self.started += 1
        if method == "begin":
            plan = self.federation.plan
            planned = plan.by_name[client]
            args = (ClientSetup(planned, batches_of(self.federation, client), plan.above(planned.cut)), *args)
        began = time.process_time()
        result = self.hosts[place].call(method, who, *args)
        took = time.process_time() - began
        if method in STATES:
            self.answers[ticket] = (self.clock, result)
        else:
            there = self._sent(self.down[place], self.clock, payload(args))
            done = self.computing[place].take(there, took)
            answer = result.value if isinstance(result, Answer) else None
            self.answers[ticket] = (self._sent(self.up[place], done, payload(answer)), result)
        self._mark = time.process_time()
        return ticket

    def next(self, tickets: Collection[Ticket]) -> tuple[Ticket, Result]:
        """The answer that is here first."""
        self._server_worked()
        ticket = min(tickets, key=lambda each: self.answers[each][0])
        arrival, result = self.answers.pop(ticket)
        self.clock = max(self.clock, arrival)
        return ticket, result

    def figures(self) -> Figures:
        """Of all that was computed and sent so far."""
        lanes = [*self.computing, *self.up, *self.down]
        busy, latencies = sum(lane.busy for lane in lanes), self.messages * self.latency
        least = max(self.server, *(lane.busy for lane in lanes))
        return Figures(self.clock, self.server + busy + latencies, least)

    def _server_worked(self) -> None:
        took = time.process_time() - self._mark
        self.clock += took
        self.server += took
        self._mark = time.process_time()

    def _sent(self, link: Lane, ready: float, size: int) -> float:
        """When a message that is ready then has arrived."""
        self.messages += 1
        return link.take(ready, size / self.rate if self.rate else 0.0) + self.latency


def payload(value: Any) -> int:
    """Bytes of the arrays of arguments, or of an answer."""
    if isinstance(value, SentMessage):
        return size_of(value.tensors)
    if isinstance(value, dict):
        return size_of(value)
    return sum(map(payload, value)) if type(value) is tuple else 0


def _host(federation: Federation) -> ClientHost:
    bases = {}
    for format, base in federation.bases.items():
        skeleton, tensors = take_apart(base, federation.plan.cut)
        bases[format] = put_together(skeleton, tensors)
    return ClientHost(federation.config, bases, federation.device, torch.get_num_threads())


def measured(config: ExperimentConfig, rate: float | None, latency: float) -> list[Figures]:
    """Figures of each round but the first, in which memory is measured."""
    federation, found = build(config), []
    set_up(federation)
    for number in range(1, ROUNDS + 1):
        attendance = Attendance(federation, list(federation.clients), number)
        attendance.begin()
        calls = SimulatedLinks(federation, rate, latency)
        remote_steps(federation, calls, attendance, Ledger(), lambda *_: None)
        found.append(calls.figures())
    return found[1:]


def in_one_process(config: ExperimentConfig) -> float:
    """CPU seconds of a round in-process, the mean of all but the first."""
    federation, found = build(config), []
    set_up(federation)
    for number in range(1, ROUNDS + 1):
        attendance = Attendance(federation, list(federation.clients), number)
        attendance.begin()
        began = time.process_time()
        local_steps(federation, attendance, Ledger(), lambda *_: None)
        found.append(time.process_time() - began)
    return statistics.fmean(found[1:])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", action="store_true", help="GPT-2 small's size in the place of MiniLM's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = (
        "fuse | link of a process | one after another, s | pipelined, s | at least, s | hidden | in one process, s"
    )
    print(f"| {columns} |\n|{'---|' * 7}")
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for fuse in ("off", "auto"):
            config, plain = (
                experiment(Path(folder), CLIENTS, engine, GPT2 if args.gpt2 else MINILM, fuse)
                for engine in ("ray", "in-process")
            )
            for rate, latency in LINKS:
                link = "none" if rate == "none" else f"{rate}, {latency}"
                figures = (None, 0.0) if link == "none" else (parse_rate(rate) / 8, parse_time(latency))
                one, rounds = in_one_process(plain), measured(config, *figures)
                kept[f"{fuse}, {link}"] = {"in_one_process": one, "rounds": [asdict(each) for each in rounds]}
                of = Figures(*(statistics.fmean(values) for values in zip(*map(astuple, rounds), strict=True)))
                seconds = " | ".join(f"{each:.1f}" for each in (of.in_turn, of.pipelined, of.least))
                print(f"| {fuse} | {link} | {seconds} | {of.hidden:.0%} | {one:.1f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
