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
    """``n`` hosts; answers come in an order drawn from ``seed``; ``fails(client, method, calls so far)`` loses one."""

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
        self.calls, self.log = {}, []

    def place(self, client):
        return self.order.index(client) % len(self.hosts)

    def start(self, client, method, *args):
        if method == "begin":
            plan = self.federation.plan
            planned = plan.by_name[client]
            args = (ClientSetup(planned, batches_of(self.federation, client), plan.above(planned.cut)), *args)
        self.log.append((client, method))
        self.calls[client] = (method, args)

    def next(self, clients):
        waiting = [c for c in self.calls if c in clients]
        client = self.draw.choice(waiting)
        method, args = self.calls.pop(client)
        if reason := self.fails(client, method, self.log.count((client, method))):
            return client, reason if isinstance(reason, NotFinite) else LostCall(reason)
        return client, copied(self.hosts[self.place(client)].call(method, client, *copied(args)))

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
