"""Clients that compute elsewhere: the same federation as in one process, bit for bit, whoever answers first."""

import pytest
import torch
from elsewhere import Hosts
from rich.console import Console

from atlas_cli.federation.recorder import Recorder
from atlas_cli.federation.state import capture
from atlas_cli.federation.training import train
from atlas_cli.reports.progress import PlainProgress

TIMES = ("seconds", "samples_per_second")


def run(federation, engine=None):
    progress = PlainProgress(Console(quiet=True))
    training = federation.config.training
    progress.start(training.rounds, training.local_steps, federation.group_names)
    recorder = Recorder(federation, None, progress)
    ledgers, made = [], federation.ledger
    federation.ledger = lambda number: ledgers.append(made(number)) or ledgers[-1]
    train(federation, recorder, local_steps=engine.local_steps) if engine else train(federation, recorder)
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in (*recorder.metrics, *recorder.clients)]
    return capture(federation), lines, [ledger.records(i) for i, ledger in enumerate(ledgers)]


def same(ours, theirs):
    (tensors, state), lines, ledgers = ours
    (others, other_state), other_lines, other_ledgers = theirs
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert state == other_state
    assert lines == other_lines
    assert ledgers == other_ledgers


CASES = {
    "pooled": {},
    "sequential": {"training": {"server_update": "sequential"}},
    "per-client": {"training": {"server_update": "per-client"}},
    "U-shaped": {"training": {"labels": "client"}},
    "U-shaped, sequential": {"training": {"labels": "client", "server_update": "sequential"}},
    "dropout": {"lora": {"dropout": 0.2}},
    "momentum": {"training": {"client_optimizer": {"name": "sgd", "momentum": 0.9}}},
    "base changes": {"aggregation": {"method": "fedex"}},
    "frozen A": {"aggregation": {"method": "ffa"}},
    "pruning": {"aggregation": {"method": "hetlora", "options": {"prune": 0.5, "penalty": 0.01}}},
    "nothing merged": {"aggregation": {"method": "none"}},
    "federated": {"mode": "federated"},
    "local-only": {"mode": "local-only"},
    "centralized": {"mode": "centralized"},
    "bfloat16 client": {"clients": {"b": {"task_group": "g", "rank": 2, "dtype": "bfloat16"}}},
    "split layers": {"clients": {"c": {"task_group": "g", "rank": 3, "split_layer": 3}}},
    "half of the clients": {"training": {"cohort": 0.5}},
    "checkpointing": {"clients": {"a": {"task_group": "g", "rank": 4, "checkpointing": True}}},
    "compression": {"privacy": {"compress": "int8"}},
    "padding hidden": {"privacy": {"mask_gradients": True, "pad_lengths": 8}},
    "DP-SGD": {"privacy": {"examples": {"clip": 1.0, "noise_multiplier": 0.5}}},
    "noisy activations": {"privacy": {"activations": {"clip": 1.0, "noise_multiplier": 0.1}}},
    "noisy updates": {"privacy": {"updates": {"clip": 1.0, "noise_multiplier": 0.5}}},
    "NoPeek": {"privacy": {"nopeek": {"weight": 0.1}}},
    "crash": {"faults": {"crash_at": {"b": {"round": 1, "step": 1}}}},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_one_process(make_federation, case):
    changes = {"engine": {"fuse": "off"}, **CASES[case]}
    plain, remote = make_federation(**changes), make_federation(**changes)
    same(run(remote, Hosts(remote, seed=len(case))), run(plain))
