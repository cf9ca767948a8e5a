"""Clients of one process elsewhere share its passes, as those of one process with the server do."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from support.elsewhere import Hosts, run, same
from support.merging import asked
from support.rounds import assert_close, trained
from support.slow import slow, slow_but

from atlas_cli.engines import passes as grouping
from atlas_cli.engines.remote import process_memory, remote_round
from atlas_cli.engines.remote.process_memory import ProcessMemory
from atlas_cli.engines.remote.ray_engine import RayEngine
from atlas_cli.planning.memory_of_plan import client_memory
from atlas_cli.planning.round_bytes import full_shape

SGD = {"name": "sgd", "lr": 0.1}  # Adam makes a rounding error of a gradient near 0 as large as a step
TRAINING = {"rounds": 2, "local_steps": 3, "client_optimizer": SGD, "server_optimizer": SGD}
FIVE = {name: {"task_group": "g", "rank": 1 + i} for i, name in enumerate("abcde")}
CASES = {
    "pooled": {},
    "sequential": {"training": {"server_update": "sequential"}},
    "per-client": {"training": {"server_update": "per-client"}},
    "U-shaped": {"training": {"labels": "client"}},
    "U-shaped, sequential": {"training": {"labels": "client", "server_update": "sequential"}},
    "control variates": {"aggregation": {"method": "scaffold"}},
    "shared gradients": {"training": {"drift": {"name": "scaffold"}}, "aggregation": {"method": "delta-svd"}},
    "base changes": {"aggregation": {"method": "fedex"}},
    "heads in turn": {"aggregation": asked("ravan")},
    "split layers": {"clients": {"c": {"split_layer": 3}}, "aggregation": {"method": "delta-svd"}},
    "half of the clients": {"training": {"cohort": 0.5}},
    "unequal steps": {
        "clients": {"b": {"local_steps": 1}},
        "aggregation": {"method": "delta-svd", "normalise": "fednova"},
    },
    "crash": {"faults": {"crash_at": {"b": {"round": 2, "step": 1}}}},
    "some alone": {"clients": {"b": {"checkpointing": True}, "d": {"learns": "auxiliary"}}},
    "bfloat16 and rows": {"clients": {"b": {"dtype": "bfloat16"}, "c": {"embedding": "rows"}}},
}
FEW = ("pooled", "sequential")


def made(make_federation, case, fuse="auto"):
    clients = {name: {**own, **case.get("clients", {}).get(name, {})} for name, own in FIVE.items()}
    training = {**TRAINING, **case.get("training", {})}
    return make_federation(**{**case, "clients": clients, "training": training, "engine": {"fuse": fuse}})


def shared(hosts):
    """How many passes of more than one client were computed."""
    return sum(method == "forward_together" and len(who) > 1 for who, method in hosts.asked)


class Watched(Hosts):
    """Notes who is asked for what, and how many units of a process keep their activations at a time."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked, self.most, self._kept = [], 0, {}

    def start(self, who, method, *args):
        self.asked.append((who, method))
        kept = self._kept.setdefault(self.place(who if isinstance(who, str) else who[0]), set())
        if method.startswith("forward"):
            kept.add(who)
        if method.startswith("backward"):
            kept.remove(who)
        self.most = max(self.most, len(kept))
        return super().start(who, method, *args)


@pytest.mark.parametrize("tokens", [512, *slow(60)])
@pytest.mark.parametrize("case", slow_but(CASES, *FEW))
def test_one_process_elsewhere_is_one_process_bit_for_bit(make_federation, monkeypatch, case, tokens):
    """The same clients share the same passes; with fewer tokens a pass, other ones in each step."""
    monkeypatch.setattr(grouping, "pass_tokens", lambda _: tokens)
    plain, remote = made(make_federation, CASES[case]), made(make_federation, CASES[case])
    hosts = Watched(remote, n=1)
    same(run(remote, hosts), run(plain))
    assert shared(hosts) > 0


@pytest.mark.parametrize("case", slow_but([case for case in CASES if "bfloat16" not in case], "U-shaped"))
def test_several_processes_are_one_without_shared_passes_to_rounding(make_federation, case):
    plain, remote = made(make_federation, CASES[case], fuse="off"), made(make_federation, CASES[case])
    hosts = Watched(remote, seed=len(case))
    (_, lines, ledgers), (_, other_lines, other_ledgers) = run(remote, hosts), run(plain)
    assert ledgers == other_ledgers and shared(hosts) > 0
    assert_close(trained(remote), trained(plain))
    for line, other in zip(lines, other_lines, strict=True):
        assert line.get("simulated") == other.get("simulated")
        assert line.get("train_loss") == pytest.approx(other.get("train_loss"), abs=1e-6)


@pytest.mark.parametrize("seed", [0, *slow(1, 2)])
@pytest.mark.parametrize("update", ["pooled", *slow("sequential")])
def test_results_do_not_depend_on_who_answers_first(make_federation, update, seed):
    case = {"training": {"server_update": update}}
    found = [made(make_federation, case) for _ in range(2)]
    same(*(run(federation, Hosts(federation, seed=at)) for federation, at in zip(found, (seed, seed + 7), strict=True)))


@pytest.mark.parametrize(("method", "times"), [("backward_together", 1), *slow(("forward_together", 2))])
def test_who_shares_a_pass_that_is_lost_is_dropped_and_back_in_the_next_round(make_federation, method, times):
    """As failures that were simulated, before the step after; round 1 is measured, client by client."""
    crashes = {"faults": {"crash_at": {name: {"round": 2, "step": 1} for name in "ac"}}}
    rounds = {"training": {"rounds": 3, "local_steps": 2}}
    plain, remote = made(make_federation, {**crashes, **rounds}), made(make_federation, rounds)
    fails = lambda *call: "its process died" if call == ("a", method, times) else None  # noqa: E731
    expected, (state, lines, ledgers) = run(plain, Hosts(plain)), run(remote, Hosts(remote, fails=fails))
    second = next(line for line in lines if line["round"] == 2 and "dropped" in line)
    assert second["dropped"] == dict.fromkeys("ac", "its process died")
    second["dropped"] = dict.fromkeys("ac", "failed before step 1")
    same((state, lines, ledgers), expected)


def test_each_of_several_processes_has_two_passes_at_least(make_federation, monkeypatch):
    """While one is with the server, the other is computed; one process alone has those of in-process."""
    monkeypatch.setattr(grouping, "_kind", lambda federation, client: "one")
    federation, clients = made(make_federation, {}), [f"c{i}" for i in range(9)]
    federation.server.real_tokens = True

    def found(place, tokens):
        batches = {c: SimpleNamespace(n_tokens=tokens, input_ids=torch.empty(1, tokens)) for c in clients}
        return ["".join(c[1] for c in each.clients) for each in grouping.passes(federation, batches, place)]

    assert found(lambda _: 0, 30) == ["012345678"]
    assert found(lambda c: int(c[1]) % 2, 30) == ["024", "68", "13", "57"]
    assert found(lambda c: int(c[1]) % 8, 30) == ["0", "8", *"1234567"]
    monkeypatch.setattr(grouping, "pass_tokens", lambda hidden_size: 60)
    assert found(lambda c: int(c[1]) % 2, 30) == ["02", "46", "8", "13", "57"]


@pytest.mark.parametrize("processes", [2, 3, 12])
@pytest.mark.parametrize("present", [range(10), (0, 2, 4, 6, 7), (0, 3, 4, 7), (1, 3, 5, 7, 8)])
def test_who_is_together_depends_on_who_takes_part_alone(present, processes):
    """Not on rounds before, which a resumed run has not seen; loads differ by no more than one."""
    first, later = ([c for c in map(str, part)] for part in (range(10), present))
    engines = []
    for rounds in ([first, later], [later]):
        engine = object.__new__(RayEngine)
        engine._processes, engine._numbers = [None] * processes, {client: int(client) for client in first}
        for cohort in rounds:
            engine._assign(cohort)
        engines.append(engine)
    assert engines[0]._places == engines[1]._places and list(engines[0]._places) == later
    load = Counter(engines[0]._places.values())
    assert max(load.values()) - min(load[at] for at in range(processes)) <= 1


def test_a_process_keeps_few_passes_at_a_time(make_federation, monkeypatch):
    """Nine clients of one process in passes of one or two; no more than four wait for their gradients."""
    monkeypatch.setattr(grouping, "pass_tokens", lambda _: 60)
    many = {"clients": {"a": {"task_group": "g", "rank": 2, "count": 9}}, "training": {"rounds": 2, "local_steps": 2}}
    plain, remote = make_federation(**many), make_federation(**many)
    hosts = Watched(remote, n=1)
    same(run(remote, hosts), run(plain))
    assert shared(hosts) > 0 and 2 <= hosts.most <= remote_round.GRAPHS


@pytest.mark.parametrize(
    ("texts", "count", "graphs"), [(8, 4, 6), *slow((16, 10, 4), (8, 10, 8), (1, 10, 12), (8, 1, 4))]
)
def test_a_process_reserves_memory_for_its_passes(make_federation, monkeypatch, texts, count, graphs):
    """Four passes of 512 tokens: as many full batches of texts of 32 tokens as those are, of all clients at most."""
    monkeypatch.setattr(process_memory, "pass_tokens", lambda width: 16 * width)  # of a width of 32
    clients = {"clients": {"a": {"task_group": "g", "rank": 4, "count": count}}}
    shape = {"training": {"batch_size": texts, "max_length": 32}}
    fused, alone = (make_federation(**clients, **shape, engine={"fuse": fuse}) for fuse in ("auto", "off"))
    task, plan = fused.data["g"].task, alone.plan
    needs = [client_memory(plan, client, task, full_shape(plan.config.training)) for client in plan.clients]
    need = max(each.peak - each.frozen_weights for each in needs)
    assert ProcessMemory.of(fused).steps - ProcessMemory.of(alone).steps == (graphs - remote_round.GRAPHS) * need
