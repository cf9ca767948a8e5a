"""Clients in hosts of their own inside this process: what an engine moves is packed and unpacked, and may fail."""

import pickle
import random

import torch

from atlas_cli.engines.remote.host import ClientHost, ClientSetup, LostCall, NotFinite
from atlas_cli.engines.remote.steps import remote_steps
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.batches import batches_of
from atlas_cli.models.frozen.skeleton import put_together, take_apart
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal

TIMES = ("seconds", "samples_per_second")


def copied(value):
    """What another process would get."""
    return pickle.loads(pickle.dumps(value))


class Hosts:
    """``n`` hosts, each of which answers its calls in their order; whose answer comes next is drawn from ``seed``.

    ``fails(client, method, calls so far)`` loses a call; the client is the first of those that it is of.
    """

    def __init__(self, federation, n=2, seed=0, fails=lambda *_: None):
        self.federation, self.draw, self.fails = federation, random.Random(seed), fails
        self.order = list(federation.clients)
        split = federation.split
        self.hosts = []
        for _ in range(n):
            bases = {}
            for format, base in federation.bases.items():
                cut = max(c.cut for c in federation.plan.clients) if split else None
                skeleton, tensors = take_apart(base, cut)
                bases[format] = put_together(skeleton, [t.clone() for t in tensors])
            self.hosts.append(ClientHost(federation.config, bases, federation.device, torch.get_num_threads()))
        self.calls, self.answers, self.log = [{} for _ in self.hosts], {}, []

    def place(self, client):
        return self.order.index(client) % len(self.hosts)

    def start(self, who, method, *args):
        client = who if isinstance(who, str) else who[0]
        if method == "begin":
            plan = self.federation.plan
            planned = plan.by_name[client]
            args = (ClientSetup(planned, batches_of(self.federation, client), plan.above(planned.cut)), *args)
        self.log.append((client, method))
        reason = self.fails(client, method, self.log.count((client, method)))
        ticket = (self.place(client), len(self.log))
        self.calls[ticket[0]][ticket] = (reason, method, who, args)
        return ticket

    def next(self, tickets):
        place = self.draw.choice(sorted({place for place, _ in tickets}))
        first = min(ticket for ticket in tickets if ticket[0] == place)
        for ticket in [ticket for ticket in self.calls[place] if ticket <= first]:
            reason, method, who, args = self.calls[place].pop(ticket)
            if reason:
                self.answers[ticket] = reason if isinstance(reason, NotFinite) else LostCall(reason)
            else:
                self.answers[ticket] = copied(self.hosts[place].call(method, who, *copied(args)))
        return first, self.answers.pop(first)

    def local_steps(self, federation, attendance, ledger, on_step):
        return remote_steps(federation, self, attendance, ledger, on_step)


def run(federation, engine=None):
    progress = PlainProgress(Terminal(quiet=True))
    training = federation.config.training
    progress.start(training.rounds, training.local_steps, federation.group_names)
    recorder = Recorder(federation, None, progress)
    ledgers, made = [], federation.ledger
    federation.ledger = lambda number: ledgers.append(made(number)) or ledgers[-1]
    train(federation, recorder, local_steps=engine.local_steps) if engine else train(federation, recorder)
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in (*recorder.metrics, *recorder.clients)]
    return RunState(federation).capture(), lines, [ledger.records(i) for i, ledger in enumerate(ledgers)]


def same(ours, theirs):
    (tensors, state), lines, ledgers = ours
    (others, other_state), other_lines, other_ledgers = theirs
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert state == other_state
    assert lines == other_lines
    assert ledgers == other_ledgers
