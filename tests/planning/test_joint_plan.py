"""Joint planning: the front is that of all candidates, and a candidate's figures are those of its config."""

import time
from dataclasses import replace
from io import StringIO
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from atlas_cli.cli._tables.plans import plan_table
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError, TooFewClientsError
from atlas_cli.planning.cuts.leakage import Leakage
from atlas_cli.planning.devices.clock import ClientWork, LocalStep, round_time
from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.joint import search as search_module
from atlas_cli.planning.joint.candidate import Candidate, Crew, Kind
from atlas_cli.planning.joint.costs import ClientCosts
from atlas_cli.planning.joint.figures import Figures
from atlas_cli.planning.joint.front import non_dominated, rounded
from atlas_cli.planning.joint.limits import choose, limit_of, nothing_fits
from atlas_cli.planning.joint.listed import layers, numbers, words
from atlas_cli.planning.joint.prepare import prepare
from atlas_cli.planning.joint.search import Found, Search, times_of
from atlas_cli.planning.joint.space import Ranges, Shared, applied, changes, consistent
from atlas_cli.planning.memory import few_blocks

SLOW = {"compute": "2 MFLOP/s", "uplink": "1 Mbit/s", "downlink": "2 Mbit/s", "latency": "5 ms", "watts": "3 W"}
FAST = {"compute": "1 GFLOP/s", "uplink": "300 kbit/s", "downlink": "8 Mbit/s", "latency": "20 ms", "watts": "20 W"}


def config_of(model, devices=None, **sections):
    return ExperimentConfig.model_validate(
        {
            "name": "test",
            "model": {"name": model, "split_layer": 2},
            "lora": {"rank": 4},
            "devices": devices or {"slow": SLOW, "fast": FAST},
            "task_groups": {
                name: {"task": "sequence-classification", "classes": ["a", "b"], "data": {"files": "not-read.jsonl"}}
                for name in ("g", "h")
            },
            "clients": {
                "p": {"task_group": "g", "device": "slow", "count": 3},
                "q": {"task_group": "h", "device": "slow", "rank": 2},
                "r": {"task_group": "g", "device": "fast", "count": 2},
            },
            "training": {"max_length": 16, "batch_size": 4, "local_steps": 3, **sections.pop("training", {})},
            "server": {"rank": 2},
            **sections,
        }
    )


def covered(row, others):
    return any((other <= row).all() for other in others)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 4)] * n), min_size=1, max_size=40)))
def test_no_member_is_dominated_and_none_is_missing(rows):
    costs = np.array(rows, dtype=float)
    front = non_dominated(costs)
    kept = costs[front]
    assert front == sorted(front)
    for place, row in enumerate(kept):
        assert not covered(row, np.delete(kept, place, axis=0))
    for place in set(range(len(costs))) - {*front}:
        assert covered(costs[place], kept)


def test_costs_that_differ_by_rounding_alone_are_equal():
    assert len(non_dominated(rounded(np.array([[0.1 + 0.2, 1.0], [0.3, 1.0]])))) == 1
    assert len(non_dominated(rounded(np.array([[0.3001, 1.0], [0.3, 1.1]])))) == 2


FLOPS = st.integers(1, 50)
WORK = st.tuples(*[FLOPS] * 9, st.sampled_from("gh"))


@settings(max_examples=60, deadline=None)
@given(st.lists(WORK, min_size=1, max_size=5), st.integers(1, 4), st.sampled_from(["pooled", "per-client"]))
def test_a_round_follows_from_the_largest_times_of_its_clients(clients, steps, update):
    """What the search takes for the time of a round is the clock's, so that it leaves out nothing that is faster."""
    server, works = Device("server", compute=1.0), []
    for number, (forward, backward, served, up, down, last, delivered, *codec, group) in enumerate(clients):
        device = Device("d", compute=1.0, uplink=8.0, downlink=8.0)
        step = LocalStep(forward, backward, served, up, down)
        coding = dict(zip(("encode_flops", "decode_flops"), codec, strict=True))
        works.append(ClientWork(f"c{number}", group, device, [step] * steps, last, delivered, **coding))
    expected = []
    for group in {work.task_group for work in works}:
        each = [times_of(work, server, update == "pooled") for work in works if work.task_group == group]
        alone, before, after, delivered = map(max, zip(*each, strict=True))
        expected.append(max(alone, before + after) + delivered)
    assert round_time(works, server, update).seconds == pytest.approx(max(expected))


def made_up(seed, update="pooled", *, memory=None, leakage=None, devices=None, device=None, **ranges):
    """A search whose costs are drawn: three kinds, two of one group."""
    training, server = {"server_update": update}, {"rank": 2, "device": device}
    config = config_of("gpt2", {"slow": SLOW, "fast": FAST, **(devices or {})}, training=training, server=server)
    draw, known = np.random.default_rng(seed), {}
    phone = Device("phone", memory=memory, compute=1.0, uplink=8.0, downlink=8.0, watts=2.0)

    def costs(crew, option, shared):
        if (key := (crew, option, shared)) not in known:
            peak, up, down, *rest = map(int, draw.integers(1, 9, 12))
            step, ends = LocalStep(*rest[:5]), rest[5:7]
            group = config.clients[crew.name].task_group
            work = ClientWork(crew.clients[0], group, phone, [step] * 3, *ends, slowdown=crew.slowdown)
            known[key] = ClientCosts(10 * dict(option)["split_layer"] + peak, up, down, work)
        return known[key]

    crews = [Crew("p", phone, 1.0, ("p-1", "p-2", "p-3")), Crew("q", phone, 2.0, ("q",)), Crew("r", phone, 1.0, ("r",))]
    clients = [SimpleNamespace(name=name) for crew in crews for name in crew.clients]
    kinds = [SimpleNamespace(key=f"clients.{crew.name}", names=crew.clients) for crew in crews]
    plan = SimpleNamespace(
        n_layers=4, group_names=["g", "h"], clients=clients, kinds=kinds, names_of=lambda kind: kind.names
    )

    def server(cuts, dtype, batch, answered):
        return 100 - 10 * min(cuts.values())

    def kept(crew, option, shared):
        return 7 * len(crew.clients) * (dict(option).get("learns") == "frozen")

    made = SimpleNamespace(plan=plan, of=costs, server=server, kept=kept)
    return Search(config, made, [Kind(crew.name, (crew,)) for crew in crews], Ranges(**ranges), leakage)


def every(search):
    return [
        Candidate(shared, options)
        for shared in search.shared
        for options in product(search.ranges.options(shared), repeat=len(search.kinds))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("update", ["pooled", "per-client"])
@pytest.mark.parametrize("one_cut", [False, True])
def test_the_front_is_that_of_all_candidates(update, one_cut):
    for seed in range(4):
        ranges = {"cuts": (1, 3), "codecs": ("none", "int8"), "clients": {"rank": (2, 4)}}
        search = made_up(seed, update, one_cut=one_cut, **ranges)
        candidates = every(search)
        assert search.size == len(candidates) == (2 * 2 * 2**3 if one_cut else 2 * 4**3)
        costs = rounded(np.array([search.figures(each).costs() for each in candidates]))
        expected = {tuple(row) for row in costs[non_dominated(costs)]}
        found = rounded(np.array([each.figures.costs() for each in search.front()]))
        assert search.exact and len(found) == len(expected) and {tuple(row) for row in found} == expected
        assert 2 < len(expected) < len(candidates)


def test_of_too_many_none_is_left_out_without_one_that_is_nearly_as_good(monkeypatch):
    monkeypatch.setattr(search_module, "MOST", 1)
    monkeypatch.setattr(search_module, "NEAR", 0.2)
    known = Leakage({1: 0.9, 2: 0.7, 3: 0.6}, "attack", "source")
    search = made_up(0, cuts=(1, 2, 3), leakage=known, clients={"rank": (2, 4)})
    found = np.array([each.figures.costs() for each in search.front()])
    costs = np.array([search.figures(each).costs() for each in every(search)])
    assert not search.exact and len(found) < len(non_dominated(rounded(costs)))
    assert all(((found <= 1.2 * row + 1e-9).all(axis=1)).any() for row in costs)


def test_limits_of_devices_hold_for_each_client():
    assert {cut for found in made_up(1, cuts=(1, 3)).front() for cut in found.candidate.cuts} == {1, 3}
    assert {cut for found in made_up(1, cuts=(1, 3), memory=25).front() for cut in found.candidate.cuts} == {1}
    search = made_up(1, cuts=(1, 3), memory=2)
    assert search.front() == []
    message = str(nothing_fits(search.too_large()))
    assert "p needs at least" in message and "more than phone has (split_layer: 1, batch_size: 4)" in message


def test_the_server_s_device_limits_the_cuts():
    needs = {cut: 100 - 10 * cut for cut in (1, 3)}
    config = {"devices": {"server": {"memory": f"{needs[3]} B", "compute": "1 FLOP/s"}}, "device": "server"}
    search = made_up(1, cuts=(1, 3), **config)
    assert {cut for found in search.front() for cut in found.candidate.cuts} == {3}
    search = made_up(1, cuts=(1,), **config)
    assert search.front() == [] and "the server needs at least" in str(nothing_fits(search.too_large()))
    roomy = {**config, "devices": {"server": {"memory": f"{needs[3] + 20} B", "compute": "1 FLOP/s"}}}
    search = made_up(1, cuts=(1, 3), clients={"learns": ("backprop", "frozen")}, **roomy)
    kept = [found.figures.server for found in search.front()]
    assert max(kept) <= needs[3] + 20 and len(set(kept)) > 1  # the texts of two clients have room, not of all
    costs = rounded(
        np.array([f.costs() for each in every(search) if (f := search.figures(each)).server <= needs[3] + 20])
    )
    assert {tuple(row) for row in costs[non_dominated(costs)]} == {
        tuple(row) for row in rounded(np.array([each.figures.costs() for each in search.front()]))
    }


def test_who_has_no_backward_is_not_checkpointed_and_who_is_frozen_has_no_rank(model_folder):
    config = config_of("gpt2")
    frozen = (("learns", "frozen"), ("rank", 4), ("checkpointing", True))
    assert applied(config, "p", frozen) == {"learns": "frozen", "checkpointing": False}
    assert applied(config, "q", frozen) == {"learns": "frozen", "checkpointing": False, "rank": 0}
    assert consistent(config, "p", frozen) and consistent(config, "p", (("learns", "zeroth-order"),))
    assert not consistent(config, "p", (("learns", "zeroth-order"), ("dtype", "bfloat16")))
    assert (
        changes(config, "p", frozen, Ranges(clients={"learns": ("backprop", "zeroth-order", "frozen"), "rank": (4,)}))
        == 2
    )


def test_leakage_is_that_of_the_inputs_of_all_clients():
    known = Leakage({1: 0.9, 3: 0.5}, "attack", "source")
    search = made_up(1, leakage=known)
    assert {cut for shared in search.shared for cut in shared.cuts} == {1, 3}  # the others were not measured
    options = tuple((("split_layer", cut),) for cut in (1, 3, 3))  # of p there are three
    assert search.figures(Candidate(search.shared[0], options)).leakage == pytest.approx((3 * 0.9 + 2 * 0.5) / 5)


def test_changes_are_counted_from_the_file():
    """p and r have rank 4 by lora.rank, q has 2; a longer way along the list is further away."""
    search = made_up(1, cuts=(2,), codecs=("none", "int8"), clients={"rank": (1, 2, 4)})
    plain, int8 = search.shared

    def changed(shared, *ranks):
        options = tuple((("split_layer", 2), ("rank", rank)) for rank in ranks)
        return search.figures(Candidate(shared, options)).changes

    assert changed(plain, 4, 2, 4) == 0
    assert changed(plain, 1, 2, 4) == 2 * 3 / 5
    assert changed(plain, 4, 4, 4) == changed(plain, 4, 2, 2) == 1 / 5
    assert changed(int8, 4, 2, 4) == 1


def test_one_cut_where_the_config_wants_one(model_folder):
    config = config_of(model_folder("gpt2"))
    assert not prepare(config, Ranges(), "device", None)[0].ranges.one_cut
    heads = config.model_copy(update={"server": config.server.model_copy(update={"rank": 0})})
    search, notes = prepare(heads, Ranges(), "device", None)
    assert search.ranges.one_cut and "set server.rank to 1 or more" in notes[-1]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"mode": "federated"}, "mode"),
        ({"training": {"server_update": "sequential"}}, "training.server_update"),
        ({"training": {"server_update": "per-client", "asynchrony": {"buffer": 1}}}, "training.asynchrony"),
        ({"aggregation": {"method": "flora"}}, "aggregation.method"),
        ({"clients": {"p": {"task_group": "g", "device": "slow", "rank": "auto"}}}, "clients.p.rank"),
    ],
)
def test_what_is_not_planned_is_refused(sections, key, model_folder):
    config = config_of(model_folder("gpt2"), **sections) if "clients" not in sections else None
    if config is None:
        other = config_of(model_folder("gpt2"))
        rank = other.clients["p"].model_copy(update={"rank": "auto"})
        config = other.model_copy(update={"clients": {**other.clients, "p": rank}})
    with pytest.raises(ConfigError) as refused:
        prepare(config, Ranges(), "device", None)
    assert refused.value.key == key


def found(memory, seconds, *, joules=1.0, cut=2, away=0):
    figures = Figures(memory, 0, seconds, joules, 5, 5, None, cut, away)
    return Found(Candidate(Shared((cut,), 8, "none"), ()), figures)


def test_the_choice_keeps_limits_and_the_nearest_says_by_how_much_it_misses():
    front = [found(100 * 2**20, 9.0), found(200 * 2**20, 5.0, away=3), found(300 * 2**20, 5.0, away=1)]
    assert choose(front, "time", []) is front[2]
    assert choose(front, "time", [limit_of("memory<=250 MiB")]) is front[1]
    assert choose(front, "memory", [limit_of("time <= 6 s")]) is front[1]
    with pytest.raises(TooFewClientsError) as nothing:
        choose(front, "energy", [limit_of("memory<=90 MiB"), limit_of("time<=10 s")])
    assert "memory is 100 MiB, 10.0 MiB too much (it keeps time<=10 s)" in str(nothing.value)
    with pytest.raises(ConfigError, match="leakage is not known"):
        choose(front, "leakage", [])


@pytest.mark.parametrize("text", ["memory", "memory<=", "memory<=5", "memory>=5 MiB", "speed<=5 s", "energy<=5"])
def test_a_limit_that_cannot_be_read(text):
    with pytest.raises(ConfigError) as wrong:
        limit_of(text)
    assert wrong.value.key == "--subject-to"


def test_lists_of_options():
    assert layers("1,3-5", "--cuts") == [1, 3, 4, 5] and numbers("8, 4,8", "--ranks") == [8, 4]
    assert words("false,true", "checkpointing") == [False, True] and words("none,nf4", "quantization") == [
        "none",
        "nf4",
    ]
    for wrong in ("", "0", "4,,8", "x", "5-2"):
        with pytest.raises(ConfigError):
            layers(wrong, "--cuts")
    with pytest.raises(ConfigError, match="did you mean nf4"):
        words("nf44", "quantization")


@pytest.mark.slow
def test_a_thousand_clients_of_a_model_of_70_billion(monkeypatch):
    traced = []
    trace = few_blocks.trace
    monkeypatch.setattr(few_blocks, "trace", lambda *args, **kwargs: traced.append(1) or trace(*args, **kwargs))
    devices = ("phone-2gib", "phone-6gib", "single-board-4gib", "laptop-8gib", "workstation-gpu-16gib")
    config = ExperimentConfig.model_validate(
        {
            "name": "large",
            "model": {"name": "llama-3-70b", "init": "random", "dtype": "bfloat16"},
            "server": {"rank": 4},  # so that clients may have different cuts
            "task_groups": {
                "g": {"task": "sequence-classification", "classes": ["a", "b"], "data": {"files": "none.csv"}}
            },
            "clients": {name: {"task_group": "g", "device": name, "count": 200} for name in devices},
        }
    )
    start = time.process_time()
    ranges = Ranges(clients={"rank": (4, 8), "quantization": ("none", "nf4")}).all_free
    search, _ = prepare(config, ranges, "device", None)
    front = search.front()
    assert time.process_time() - start < 60  # 10 s, whatever else the machine does
    assert search.exact and len(front) > 100 and search.size > 10**12
    assert sum(kind.clients for kind in search.kinds) == 1000
    assert any(len(found.candidate.cuts) > 1 for found in front)
    assert len(traced) <= 32  # the blocks of a cut are alike, and the sizes of a rank are read off


def test_small_figures_have_three_digits():
    search = made_up(1)
    [best, *_] = search.front()
    small = best._replace(figures=replace(best.figures, seconds=1.2345e-4, changes=2e-4))
    console = Console(width=200, file=StringIO())
    console.print(plan_table(search, [small], None, 200))
    assert {"0.000123", "0.0002"} <= set(console.file.getvalue().split())
