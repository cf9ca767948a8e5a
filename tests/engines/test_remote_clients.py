"""Clients that compute elsewhere: the same federation as in one process, bit for bit, whoever answers first."""

import re

import pytest
from support.elsewhere import Hosts, run, same
from support.merging import asked
from support.slow import slow, slow_but

from atlas_cli.aggregation.methods import scaffold
from atlas_cli.engines.remote.host import NotFinite
from atlas_cli.errors import AtlasError, NonFiniteError, PluginError
from atlas_cli.plugin_errors import described

PHONE = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s"}
UNEQUAL = {  # with training.asynchrony
    "devices": {"phone": PHONE},
    "clients": {name: {"device": "phone"} for name in "abc"},
    "faults": {"slow": {"b": 1.7, "c": 2.6}},
}
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
    "control variates": {"aggregation": {"method": "scaffold"}},
    "control variates, unsplit": {"aggregation": {"method": "scaffold"}, "mode": "federated"},
    "pulled back, groups with momentum": {
        "training": {"drift": {"name": "fedprox", "mu": 0.5}, "local_steps": 3, "labels": "client"},
        "aggregation": {"method": "delta-svd", "optimizer": {"name": "adam", "lr": 1e-3}},
    },
    "pulled back, unsplit": {"training": {"drift": {"name": "fedprox"}}, "mode": "federated"},
    "one factor in turn": {"aggregation": {"method": "rolora"}, "training": {"rounds": 3}},
    "shared gradients": {"training": {"drift": {"name": "scaffold"}}, "aggregation": {"method": "delta-svd"}},
    "shared gradients, one factor in turn": {
        "training": {"drift": {"name": "scaffold"}},
        "aggregation": {"method": "rolora"},
        "mode": "federated",
    },
    "shared gradients, crash": {
        "training": {"drift": {"name": "scaffold"}, "server_update": "sequential"},
        "faults": {"crash_at": {"b": {"round": 1, "step": 0}}},
    },
    "components in turn": {"aggregation": {"method": "fed-plora"}, "training": {"rounds": 3}},
    "heads in turn": {"aggregation": asked("ravan"), "training": {"rounds": 3}},
    "unequal steps": {
        "clients": {"b": {"task_group": "g", "rank": 2, "local_steps": 1}},
        "aggregation": {"method": "delta-svd", "normalise": "fednova"},
    },
    "nothing merged": {"aggregation": {"method": "none"}},
    "federated": {"mode": "federated"},
    "local-only": {"mode": "local-only"},
    "centralized": {"mode": "centralized"},
    "bfloat16 client": {"clients": {"b": {"task_group": "g", "rank": 2, "dtype": "bfloat16"}}},
    "quantised weights": {
        "model": {"quantization": "int8"},
        "clients": {"b": {"task_group": "g", "rank": 2, "quantization": "nf4-double"}},
    },
    "rows of the embedding": {"clients": {"b": {"task_group": "g", "rank": 2, "embedding": "rows"}}},
    "split layers": {"clients": {"c": {"task_group": "g", "rank": 3, "split_layer": 3}}},
    "half of the clients": {"training": {"cohort": 0.5}},
    "checkpointing": {"clients": {"a": {"task_group": "g", "rank": 4, "checkpointing": True}}},
    "codecs": {
        "wire": {"activations": {"codec": "int4"}, "gradients": {"codec": "int8"}},
        "clients": {"b": {"task_group": "g", "rank": 2, "wire": {"activations": {"codec": "nf4"}}}},
        "training": {"labels": "client"},
    },
    "codecs that keep texts": {
        "wire": {
            "activations": {"codec": "delta", "options": {"codec": "low-rank"}},
            "gradients": {"codec": "top-k", "feedback": True},
        },
        "training": {"labels": "client", "local_steps": 8, "rounds": 2},
        "faults": {"crash_at": {"b": {"round": 2, "step": 1}}},
    },
    "adapters coded both ways": {
        "wire": {"adapters": {"codec": "int4", "feedback": True}, "deliveries": {"codec": "int8"}},
        "training": {"labels": "client"},
        "faults": {"crash_at": {"b": {"round": 2, "step": 1}}},
    },
    "padding hidden": {"privacy": {"mask_gradients": True, "pad_lengths": 8}},
    "DP-SGD": {"privacy": {"examples": {"clip": 1.0, "noise_multiplier": 0.5}}},
    "noisy activations": {"privacy": {"activations": {"clip": 1.0, "noise_multiplier": 0.1}}},
    "noisy updates": {"privacy": {"updates": {"clip": 1.0, "noise_multiplier": 0.5}}},
    "bottleneck, who comes first": {
        **UNEQUAL,
        "privacy": {"mid": {}},
        "training": {"server_update": "sequential", "labels": "client", "asynchrony": {"buffer": 1}, "rounds": 3},
    },
    "NoPeek": {"privacy": {"nopeek": {"weight": 0.1}}},
    "crash": {"faults": {"crash_at": {"b": {"round": 1, "step": 1}}}},
    "who comes first": {
        **UNEQUAL,
        "training": {"server_update": "sequential", "asynchrony": {"buffer": 1}, "rounds": 5},
    },
    "who comes first, copies": {
        **UNEQUAL,
        "training": {"server_update": "per-client", "labels": "client", "asynchrony": {"buffer": 2}, "rounds": 4},
    },
}


FEW = ("pooled", "who comes first", "crash")


@pytest.mark.parametrize("case", slow_but(CASES, *FEW))
def test_equals_one_process(make_federation, case):
    training = {"local_steps": 2, **CASES[case].get("training", {})}
    changes = {"engine": {"fuse": "off"}, **CASES[case], "training": training}
    plain, remote = make_federation(**changes), make_federation(**changes)
    same(run(remote, Hosts(remote, seed=len(case))), run(plain))


def rounds(lines, number):
    return next(line for line in lines if line["round"] == number and "dropped" in line)


def lost(*times):
    """A client's calls that have no answer, by client, method and how many times it was called."""
    return lambda *call: "its process died" if call in times else None


@pytest.mark.parametrize("update", ["pooled", *slow("sequential", "per-client")])
def test_a_client_that_is_lost_counts_until_then_and_is_back_in_the_next_round(make_federation, update):
    """As one whose failure before the same step was simulated: its last step was taken by the server, not by itself."""
    changes = {"engine": {"fuse": "off"}, "training": {"server_update": update, "rounds": 3}}
    crash = {"faults": {"crash_at": {"b": {"round": 2, "step": 2}}}}
    plain, remote = make_federation(**changes, **crash), make_federation(**changes)
    # with this seed b is missed in step 2: a sequential order is drawn of those that are present when a step begins
    hosts = Hosts(remote, seed=3, fails=lost(("b", "backward", 5)))
    expected, (state, lines, ledgers) = run(plain), run(remote, hosts)
    group = next(line for line in lines if line["round"] == 2 and "dropped" in line)
    assert group["dropped"] == {"b": "its process died"}
    group["dropped"] = {"b": "failed before step 2"}
    same((state, lines, ledgers), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["begin", "end"])
def test_a_client_lost_at_either_end_of_a_round_keeps_what_it_had(make_federation, method):
    remote = make_federation(engine={"fuse": "off"})
    _, lines, _ = run(remote, Hosts(remote, fails=lost(("b", method, 1))))
    first, second = (line for line in lines if "dropped" in line and line["round"])
    assert (first["dropped"], first["participants"]) == ({"b": "its process died"}, ["a", "c"])
    assert (second["dropped"], second["participants"]) == ({}, ["a", "b", "c"])


@pytest.mark.slow
def test_a_client_lost_between_two_parts_of_a_u_shaped_step(make_federation):
    remote = make_federation(engine={"fuse": "off"}, training={"labels": "client"})
    _, lines, _ = run(remote, Hosts(remote, fails=lost(("c", "answer_features", 2))))
    assert next(line for line in lines if line["round"] == 1)["dropped"] == {"c": "its process died"}
    assert next(line for line in lines if line["round"] == 2 and "dropped" in line)["participants"] == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("update", ["pooled", "sequential", "per-client"])
def test_values_that_are_not_finite_end_the_run_or_drop_the_client(make_federation, update):
    """Gradients explode at the client: with a huge rate of SGD its second step has none that are finite."""
    wild = {"client_optimizer": {"name": "sgd", "lr": 1e38}, "max_grad_norm": None, "server_update": update}
    stop = make_federation(engine={"fuse": "off"}, training=wild)
    with pytest.raises(NonFiniteError, match=r"client .*round 1, step"):
        run(stop, Hosts(stop))
    changes = {"engine": {"fuse": "off"}, "training": {**wild, "on_nonfinite": "drop-client", "local_steps": 2}}
    changes["training"] |= {"min_clients": 1, "rounds": 1}
    plain, remote = make_federation(**changes), make_federation(**changes)
    errors = []
    for federation, hosts in ((plain, None), (remote, Hosts(remote))):
        with pytest.raises(AtlasError) as caught:  # all are dropped
            run(federation, hosts)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.slow
def test_a_step_that_a_client_could_not_take_is_not_counted(make_federation):
    remote = make_federation(engine={"fuse": "off"}, training={"on_nonfinite": "drop-client"})
    wild = NotFinite("gradient norm of client b is not finite; try less")
    _, lines, _ = run(remote, Hosts(remote, fails=lambda *call: wild if call == ("b", "backward", 2) else None))
    a, b, c = (line for line in lines if "client" in line and line["round"] == 1)
    assert (b["steps"], b["participated"]) == (1, False)
    assert rounds(lines, 1)["dropped"] == {"b": "gradient norm of client b is not finite"}
    assert (a["steps"], c["steps"]) == (3, 3)
    assert rounds(lines, 1)["examples"] == a["examples"] + b["examples"] + c["examples"]


def test_what_a_client_holds_elsewhere_is_compared_with_what_it_was_delivered(make_federation):
    remote = make_federation(engine={"fuse": "off"})

    class Tampering(Hosts):
        def start(self, client, method, *args):
            if method == "begin" and client == "b":
                (owned,) = args
                changed = {name: array._replace(values=array.values + 1) for name, array in owned.exchanged.items()}
                args = (owned._replace(exchanged=changed),)
            return super().start(client, method, *args)

    with pytest.raises(AtlasError, match="client b does not hold, where it runs, what the server delivered"):
        run(remote, Tampering(remote))


@pytest.mark.slow
def test_a_process_keeps_few_graphs_at_a_time(make_federation):
    """Nine clients of one process: no more than four have activations that wait for their gradients."""
    many = {"clients": {"a": {"task_group": "g", "rank": 2, "count": 9}}, "engine": {"fuse": "off"}}
    many["training"] = {"rounds": 1, "local_steps": 2}
    plain, remote = make_federation(**many), make_federation(**many)
    alive, most = set(), []

    class Watching(Hosts):
        def start(self, client, method, *args):
            if method == "forward":
                alive.add(client)
                most.append(len(alive))
            if method == "backward":
                alive.discard(client)
            return super().start(client, method, *args)

    same(run(remote, Watching(remote, n=1)), run(plain))
    assert 2 <= max(most) <= 4


def test_a_plugin_that_fails_where_a_client_computes_ends_the_run_and_is_named(make_federation, monkeypatch):
    monkeypatch.setattr(scaffold._Control, "corrected", lambda self, gradients: 1 / 0)
    federation = make_federation(aggregation={"method": "scaffold"})
    with pytest.raises(PluginError) as caught:
        run(federation, Hosts(federation, seed=1))
    said = described(caught.value)
    assert "aggregation method 'scaffold' (" in said and "raised ZeroDivisionError: division by zero" in said
    assert re.search(r", in round 1, client \w+, step 0$", said) and "Traceback" in str(caught.value.__cause__)
