"""Clients of one entry of a config are planned as one: counted, not timed; figures are those of as many entries."""

import sys
from collections import Counter
from dataclasses import replace

import pytest

from atlas_cli.cli import validate
from atlas_cli.config.clients_of_a_run import MOST_IN_A_RUN, notes_on_clients, require_few_enough
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation import auto_ranks
from atlas_cli.experiment.allocation.auto_ranks import ClientRanks, plan_ranks
from atlas_cli.experiment.allocation.device_fit import fit_to_devices
from atlas_cli.experiment.session import _ready
from atlas_cli.planning import client_plan, memory_of_plan
from atlas_cli.planning.devices.clock_notes import clock_notes
from atlas_cli.planning.joint.prepare import prepare
from atlas_cli.planning.joint.space import Ranges
from atlas_cli.planning.memory_assumptions import read_texts
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import ClientPlan, make_plan
from atlas_cli.wire.step_codecs import StepCodecs

PHONES = {"task_group": "g", "rank": 4, "device": "phone-6gib", "wire": {"activations": {"codec": "int8"}}}
LAPTOP = {"task_group": "g", "rank": 2}


def config_of(model, clients, **changes):
    return ExperimentConfig.model_validate(
        {
            "name": "many",
            "model": {"name": model, "split_layer": 2},
            "task_groups": {
                "g": {"task": "sequence-classification", "classes": ["a", "b"], "data": {"files": "x.csv"}}
            },
            "clients": clients,
            "server": {"rank": 2},
            "training": {"max_length": 16, "batch_size": 2},
            **changes,
        }
    )


@pytest.fixture
def calls(monkeypatch):
    counts = Counter()

    def counted(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            counts[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, staticmethod(call) if isinstance(owner, type) else call)

    for owner, name in (
        (StepCodecs, "of"),
        (client_plan, "codecs_of"),
        (auto_ranks, "client_memory"),
        (memory_of_plan, "client_memory"),
        (memory_of_plan, "round_bytes"),
    ):
        counted(owner, name)
    over = WireConfig.over
    monkeypatch.setattr(WireConfig, "over", lambda *args: counts.update(["over"]) or over(*args))
    return counts


def planned(model, count):
    """All that ``atlas validate`` and ``atlas memory-report`` ask of a plan, of ``count`` phones and a laptop."""
    config = config_of(model, {"phones": {**PHONES, "count": count}, "laptop": LAPTOP})
    plan = make_plan(config)
    read_texts(plan)
    plan_ranks(config, "uniform")
    clock_notes(config)
    return predict(plan, {"g": ["a", "b"]})


@pytest.mark.slow
def test_what_is_looked_at_of_many_clients_is_their_kinds(model_folder, calls):
    found = []
    for count in (3, 2000):
        calls.clear()
        assert len(planned(model_folder("gpt2"), count).rounds) == count + 1
        found.append(dict(calls))
    assert found[0] == found[1] and found[0]["round_bytes"] == 2


@pytest.mark.parametrize("method", ["delta-svd", "fed-plora", "flora"])
def test_figures_of_a_count_are_those_of_as_many_entries(model_folder, method):
    rule = {"aggregation": {"method": method}}
    counted = config_of(model_folder("gpt2"), {"phones": {**PHONES, "count": 3}, "laptop": LAPTOP}, **rule)
    single = config_of(model_folder("gpt2"), {**{f"phones-{i}": PHONES for i in (1, 2, 3)}, "laptop": LAPTOP}, **rule)
    plans = [make_plan(config) for config in (counted, single)]
    assert [kind.name for kind in plans[0].kinds] == ["phones-1", "laptop"]
    assert [[(c.name, c.cut, c.ranks, c.format, c.wire) for c in plan.clients] for plan in plans[:1]] == [
        [(c.name, c.cut, c.ranks, c.format, c.wire) for c in plans[1].clients]
    ]
    for name in ("group_ranks", "server_ranks", "contested"):
        assert getattr(plans[0], name)("g") == getattr(plans[1], name)("g")
    one, other = (predict(plan, {"g": ["a", "b"]}) for plan in plans)
    assert one.record() == other.record() and one.rounds == other.rounds
    assert clock_notes(counted) == clock_notes(single)
    assert plan_ranks(counted, "uniform").clients == plan_ranks(single, "uniform").clients


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, "auto"])
def test_a_config_is_validated_without_making_a_client_of_a_count(model_folder, monkeypatch, rank):
    made = Counter()
    for owner in (ClientPlan, ClientRanks):
        monkeypatch.setattr(owner, "named", lambda self, name: made.update([name]) or replace(self, name=name))
    phones = {**PHONES, "rank": rank, "count": 2000}
    plan = make_plan(config_of(model_folder("gpt2"), {"phones": phones, "laptop": LAPTOP}))
    fitted = fit_to_devices(plan.config, "uniform")
    assert len(plan.clients) == len(fitted.clients) == 2001
    table = validate._table(plan, {})
    assert next(iter(table.columns[0].cells)) == "phones-1 and 1,999 alike"
    assert table.row_count == 2 and not made
    assert [client.name for client in fitted.clients[1998:]] == ["phones-1999", "phones-2000", "laptop"]
    assert made.total() == 1999  # all of them when one is asked for


def test_more_clients_than_a_run_has_are_planned_and_not_trained(model_folder):
    config = config_of(model_folder("gpt2"), {"phones": {**PHONES, "count": 999_999}, "laptop": LAPTOP})
    plan = make_plan(config)
    assert len(plan.clients) == 10**6 and "_all" not in vars(plan.clients)  # none of them was made
    assert notes_on_clients(config) == ["1,000,000 clients are planned, and not trained: a run has at most 100,000"]
    with pytest.raises(ConfigError, match=r"clients.phones.count: a run has at most 100000 .* has 1000000; lower it"):
        _ready(config, None)  # before anything is shown or read
    few = config_of(model_folder("gpt2"), {"phones": {**PHONES, "count": MOST_IN_A_RUN}})
    assert notes_on_clients(few) == [] and require_few_enough(few) is None


def test_memory_and_settings_of_many_clients_are_planned_without_making_them(model_folder, monkeypatch):
    monkeypatch.setattr(ClientPlan, "named", lambda *_: pytest.fail("a client was made"))
    clients = {"phones": {**PHONES, "count": 20_000}, "laptop": LAPTOP}
    config = config_of(model_folder("gpt2"), clients, faults={"slow": {"phones": 2.0}})
    assert [len(kind.names) for kind in predict(make_plan(config), {"g": ["a", "b"]}).kinds] == [20_000, 1]
    search, _ = prepare(config, Ranges(cuts=(1, 2)), "client", None)
    assert [(kind.clients, kind.crews[0].slowdown) for kind in search.kinds] == [(20_000, 2.0), (1, 1.0)]
    assert search.front()


def test_settings_of_a_count_are_those_of_as_many_entries(model_folder):
    """To the last bit of joules, which are summed in the order of the config, through slow clients."""
    links = {"uplink": "1 Mbit/s", "downlink": "2 Mbit/s"}
    devices = {"phone": {"memory": "4 GiB", "compute": "3 GFLOP/s", "watts": "2.7 W", **links}}
    phone = {"task_group": "g", "rank": 4, "device": "phone"}
    single = {f"p-{i}": phone for i in range(1, 8)}
    found = []
    for clients in ({"p": {**phone, "count": 7}}, single):
        slow = {"p-3": 1.7, "p-4": 2.3, "p-6": 1.7}
        config = config_of(model_folder("gpt2"), clients, devices=devices, faults={"slow": slow})
        search, _ = prepare(config, Ranges(cuts=(1, 2)), "device", None)
        found.append([each.figures for each in search.front()])
    assert found[0] == found[1] and found[0][0].joules > 0


def test_a_planned_client_is_a_name_and_what_it_shares(model_folder):
    plan = make_plan(config_of(model_folder("gpt2"), {"phones": {**PHONES, "count": 1000}}))
    assert sys.getsizeof(plan.clients[1]) < 200 and not hasattr(plan.clients[1], "__dict__")
    assert all(client.ranks is plan.kinds[0].ranks for client in plan.clients)
