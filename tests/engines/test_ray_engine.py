"""The Ray engine on clusters of this machine: equal to one process, and what becomes of processes that fail."""

import contextlib
import os
import signal
import time

import psutil
import pytest
import torch
from support.elsewhere import Hosts, run, same

from atlas_cli.engines.remote.host import ClientSetup
from atlas_cli.errors import AtlasError, ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default::ResourceWarning")]
OFF = {"engine": {"fuse": "off", "name": "ray", "hosts": 2}}
ONE = {"engine": {**OFF["engine"], "hosts": 1}}  # each process imports torch and transformers anew, for seconds


@pytest.fixture(scope="module")
def ray():
    from atlas_cli.engines.remote.cluster import connected

    with connected(None, 3) as module:
        yield module


@pytest.fixture
def engine(ray):
    """``engine(federation)``: in a ``with``; its notes are in ``engine.notes``."""
    from atlas_cli.engines.remote.ray_engine import RayEngine

    def make(federation):
        return RayEngine(federation, ray, make.notes.append)

    make.notes = []
    return make


def rounds(lines, number):
    return next(line for line in lines if line["round"] == number and "dropped" in line)


def gone(pids, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.1)
    return [pid for pid in pids if psutil.pid_exists(pid)]


# those that differ in what is moved; tests/engines/test_remote_clients.py has every way to train
CASES = {
    "who comes first on the virtual clock": {
        "devices": {"phone": {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s"}},
        "clients": {name: {"device": "phone"} for name in "abc"},
        "faults": {"slow": {"c": 1.3}},  # it comes third, after two merges
        "training": {"server_update": "sequential", "asynchrony": {"buffer": 1, "max_staleness": 1}, "rounds": 4},
    },
    "every way to learn": {
        "clients": {
            "b": {"task_group": "g", "rank": 2, "learns": "zeroth-order"},
            "c": {"task_group": "g", "rank": 3, "learns": "auxiliary"},
            "d": {"task_group": "g", "rank": 0, "learns": "frozen"},
        },
    },
    "per-client, shared gradients": {"training": {"server_update": "per-client", "drift": {"name": "scaffold"}}},
    "U-shaped, pulled back, groups with momentum": {
        "training": {"labels": "client", "drift": {"name": "fedprox", "mu": 0.5}},
        "aggregation": {"method": "delta-svd", "optimizer": {"name": "yogi", "lr": 1e-3, "second": "row-column"}},
    },
    "pooled, faults": {"faults": {"drop": 0.3, "crash_at": {"b": {"round": 1, "step": 1}}}, "training": {"rounds": 3}},
    "bfloat16, nf4, rows, base changes": {
        "clients": {
            "b": {"task_group": "g", "rank": 2, "dtype": "bfloat16", "quantization": "nf4", "embedding": "rows"}
        },
        "aggregation": {"method": "fedex"},
    },
    "federated, DP-SGD": {"mode": "federated", "privacy": {"examples": {"clip": 1.0, "noise_multiplier": 0.5}}},
}
BY_TWO = ("who comes first on the virtual clock", "every way to learn")


@pytest.mark.parametrize("case", CASES)
def test_equals_one_process(make_federation, engine, case):
    torch.set_num_threads(1)
    asked, count = (OFF, 2) if case in BY_TWO else (ONE, 1)
    plain, remote = make_federation(engine={"fuse": "off"}, **CASES[case]), make_federation(**asked, **CASES[case])
    with engine(remote) as running:
        found = run(remote, running)
        assert running.unchanged()
        moved = running.record()["moved_bytes"]
        pids = [process.pid for process in running._processes]
    same(found, run(plain))
    # what clients own goes down and comes back, with moments that they have at the end alone, at first
    assert 0 < moved["state to clients"] < moved["state from clients"]
    assert ("steps from clients" in moved) == remote.split
    assert len(set(pids)) == count and gone(pids) == []


def test_clients_of_a_process_share_passes(make_federation, engine):
    """Bit for bit as in hosts of this process, of whose passes tests/engines/test_remote_passes.py tells."""
    torch.set_num_threads(1)
    clients = {"d": {"task_group": "g", "rank": 1}, "e": {"task_group": "g", "rank": 2}}
    hosted, remote = (
        make_federation(clients=clients),
        make_federation(clients=clients, engine={"name": "ray", "hosts": 2}),
    )
    with engine(remote) as running:
        asked, original = [], running.start
        running.start = lambda who, method, *args: (asked.append((who, method)), original(who, method, *args))[1]
        found = run(remote, running)
    assert ("a", "c") in {who for who, method in asked if method == "forward_together"}
    same(found, run(hosted, Hosts(hosted)))


def test_a_killed_process_loses_its_clients_for_the_round(make_federation, engine):
    federation = make_federation(**OFF, training={"rounds": 3})
    with engine(federation) as running:
        original, calls = running.start, []

        def start(client, method, *args):
            calls.append(method)
            if calls.count("backward") == 2 and method == "backward":
                os.kill(running._processes[running.place("a")].pid, signal.SIGKILL)
            return original(client, method, *args)

        running.start = start
        _, lines, _ = run(federation, running)
    dropped = rounds(lines, 1)["dropped"]
    assert "a" in dropped and "died" in dropped["a"] and set(dropped) < {"a", "b", "c"}
    assert rounds(lines, 2)["participants"] == rounds(lines, 3)["participants"] == ["a", "b", "c"]
    assert any(note.startswith("a process of the cluster is replaced: its process") for note in engine.notes)
    assert running.replaced == 1


def test_an_error_in_a_client_is_its_own(make_federation, engine, ray):
    """The client is named with its error; the process is replaced after the round, since nobody knows its state."""
    federation = make_federation(**OFF)
    with engine(federation) as running:
        made = ray.get(running._made_for("b"))
        planned, batches, upper = made
        object.__setattr__(batches, "pad", "none")
        running._made["b"] = ray.put(ClientSetup(planned, batches, upper))
        before = [process.pid for process in running._processes]
        original = running._fill

        def fill():
            original()
            if not running._processes[0].known_clients and len(running._processes) == 2 and running.replaced:
                running._made.pop("b", None)

        running._fill = fill
        _, lines, _ = run(federation, running)
        after = [process.pid for process in running._processes]
    assert "raised" in rounds(lines, 1)["dropped"]["b"] and set(rounds(lines, 1)["dropped"]) == {"b"}
    assert len({*before, *after}) >= 3


def test_a_process_that_hangs_is_killed(make_federation, engine):
    federation = make_federation(engine={**OFF["engine"], "timeout": "3 s"})
    with engine(federation) as running:
        stopped, original = [], running.start

        def start(client, method, *args):
            if method == "backward" and not stopped:
                stopped.append(running._processes[running.place(client)].pid)
                os.kill(stopped[0], signal.SIGSTOP)
            return original(client, method, *args)

        running.start = start
        _, lines, _ = run(federation, running)
    reasons = set(rounds(lines, 1)["dropped"].values())
    assert reasons == {"gave no answer within 3 s"}
    assert rounds(lines, 2)["participants"] == ["a", "b", "c"]
    assert gone(stopped) == []


def test_two_hundred_clients_share_two_processes(make_federation, engine, tmp_path):
    rows = [f"film {i} was {('good', 'bad')[i % 2]},{('pos', 'neg')[i % 2]}" for i in range(1000)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    many = {
        "task_groups": {"g": {"task": "sequence-classification", "data": {"files": str(tmp_path / "rows.csv")}}},
        "clients": {"a": {"task_group": "g", "rank": 2, "count": 198}},  # b and c are there, too
        "training": {"rounds": 1, "local_steps": 2},
        "partition": {"local_test": 0},
    }
    plain, remote = make_federation(engine={"fuse": "off"}, **many), make_federation(**OFF, **many)
    torch.set_num_threads(1)
    with engine(remote) as running:
        found = run(remote, running)
        assert len(running._processes) == 2
        load = [running.place(client) for client in remote.clients]
    assert (load.count(0), load.count(1)) == (100, 100)
    same(found, run(plain))


def test_more_than_there_is_would_wait_for_ever(make_federation, engine):
    for changes, key in (({"gpus": 4}, "engine.gpus"), ({"hosts": 99}, "engine.hosts"), ({"cpus": 999}, "engine.cpus")):
        federation = make_federation(engine={**OFF["engine"], **changes})
        with pytest.raises(ConfigError, match=r"no room for .* process") as error:
            engine(federation)
        assert error.value.key == key


def test_other_software_on_a_node(make_federation, engine, monkeypatch):
    from atlas_cli.engines.remote import installed_software

    federation = make_federation(**ONE)
    monkeypatch.setattr(installed_software, "_sources", lambda: "another state")
    with pytest.raises(ConfigError, match=r"has atlas .*, here .*another state.*install the same on all nodes"):
        engine(federation).__enter__()


def test_listens_on_loopback_alone(ray):
    ports = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one of a test before, that just ended
            ports += [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert ports
    assert {c.laddr.ip.removeprefix("::ffff:") for c in ports} == {"127.0.0.1"}


def test_a_run_that_is_connected_already_leaves_the_cluster_alone(make_federation, ray):
    from atlas_cli.engines.engine import engine_of

    federation = make_federation(**ONE)
    with engine_of(federation, lambda note: None) as running:
        assert running.record()["processes"].total() == 1
    assert ray.is_initialized()
    with pytest.raises(AtlasError), engine_of(federation, lambda note: None):
        raise AtlasError("what ended the run")
    assert ray.is_initialized()
