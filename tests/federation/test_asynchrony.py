"""Clients at the pace of their devices: buffered merges against the synchronous run, and what a resume restores."""

import json

import pytest
import torch
from torch.nn.functional import pad

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.experiment.round_loop import deliver, set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.federation.round_time import work_of_pass
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.planning.devices.clock import ClientWork, LocalStep
from atlas_cli.planning.devices.devices import Device
from atlas_cli.wire.ledger import Ledger

DEVICE = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s", "latency": "10 ms"}
SLOW = {"c": 3.0}
ONE = Device("one", compute=1.0, uplink=1.0, downlink=1.0, watts=1.0)


def config_of(make_config, **changes):
    training = {"server_update": "sequential", "rounds": 4, "local_steps": 2} | changes.pop("training", {})
    return make_config(
        devices={"phone": DEVICE},
        clients={name: {"device": "phone"} for name in "abc"},
        training=training,
        **{"aggregation": {"method": "delta-svd"}, "faults": {"slow": SLOW}, **changes},
    )


def after(config, train_quietly):
    federation = build(config)
    return RunState(federation).capture, train_quietly(federation)


SAME = {
    "nothing trained on the server": {"server": {"rank": 0}, "training": {"labels": "client"}},
    "a copy of the server for each client": {"training": {"server_update": "per-client", "cohort": 0.67}},
}


@pytest.mark.parametrize("case", SAME)
def test_a_buffer_of_all_that_train_is_the_synchronous_run(case, make_config, train_quietly):
    """Nothing depends on the order in which the server is asked; faults, absence and devices change nothing."""
    faults = {"slow": SLOW, "drop": 0.2, "crash_at": {"b": {"round": 2, "step": 1}}}
    common = {**SAME[case], "engine": {"fuse": "off"}, "faults": faults}
    plain, lines = after(config_of(make_config, **common), train_quietly)
    rule = {"buffer": 2 if "cohort" in SAME[case]["training"] else 3}
    asynchronous = {**common, "training": {**common["training"], "asynchrony": rule}}
    buffered, own = after(config_of(make_config, **asynchronous), train_quietly)
    one, other = plain()[0], buffered()[0]
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    same = ("round", "train_loss", "test", "bytes_up", "bytes_down", "participants", "dropped", "aggregation_error")
    assert [[line[k] for k in same] for line in lines.metrics] == [[line[k] for k in same] for line in own.metrics]


def by_hand(config, seconds, scale=1.0):
    """A federation whose clients take so many seconds for a pass, and whose server takes none."""
    federation = build(config)

    def work_of(client, number):
        steps = config.training.local_steps
        step = LocalStep(0.5 / steps, 0.5 / steps, 0, 0, 0, 0, 0)
        return ClientWork(
            client, federation.group_of(client), ONE, [step] * steps, 0, 0, 0, 0, slowdown=scale * seconds[client]
        )

    federation.under_way = UnderWay(config, federation.aggregator, work_of)
    return federation


def two(make_config, faults=None, **rule):
    """Clients a and b, each with its updates merged as they come."""
    given = config_of(make_config, training={"rounds": 9, "asynchrony": {"buffer": 1, **rule}}).model_dump()
    del given["clients"]["c"]
    return ExperimentConfig.model_validate({**given, "faults": faults or {}})


def groups(make_config, **training):
    """A group g of a, b and c, and a group h of d and e."""
    given = config_of(make_config, training=training, faults={"slow": {"b": 2.2, "c": 3.0}}).model_dump()
    given["task_groups"]["h"] = given["task_groups"]["g"]
    given["clients"] |= {name: {**given["clients"]["b"], "task_group": "h"} for name in "de"}
    return ExperimentConfig.model_validate(given)


@pytest.mark.slow
def test_staleness_of_two_clients_of_periods_one_and_three(make_config, train_quietly):
    """a comes at 1, 2, 3 (before b, by the order of the config), and so on; b has missed three merges each time."""
    lines = train_quietly(by_hand(two(make_config), {"a": 1, "b": 3})).metrics[1:]
    staleness = [{"a": 0}, {"a": 0}, {"a": 0}, {"b": 3}, {"a": 1}, {"a": 0}, {"a": 0}, {"b": 3}, {"a": 1}]
    assert [line["staleness"] for line in lines] == staleness
    assert [line["simulated_seconds"] for line in lines] == [1, 1, 1, 0, 1, 1, 1, 0, 1]


@pytest.mark.slow
def test_twice_the_times_change_only_times_and_energy(make_config, train_quietly):
    def run(scale):
        federation = by_hand(two(make_config), {"a": 1, "b": 3}, scale)
        lines = train_quietly(federation).metrics[1:]
        times = [line.pop(key) for line in lines for key in ("simulated_seconds", "simulated_joules")]
        return RunState(federation).capture()[0], times, lines

    (state, seconds, lines), (other, doubled, others) = run(1.0), run(2.0)
    assert doubled == [2 * each for each in seconds]
    assert all(torch.equal(state[name], other[name]) for name in state)
    timed = ("seconds", "samples_per_second")
    assert [{k: v for k, v in line.items() if k not in timed} for line in lines] == [
        {k: v for k, v in line.items() if k not in timed} for line in others
    ]


@pytest.mark.slow
def test_updates_that_are_too_stale_are_dropped_and_counted(make_config, train_quietly):
    recorder = train_quietly(by_hand(two(make_config, max_staleness=2), {"a": 1, "b": 3}))
    lines = recorder.metrics[1:]
    assert [line["participants"] for line in lines] == [["a"]] * 9
    why = "staleness 3 is more than 2"
    # b is dropped at 3, starts anew at 4 with the merge of a's update, and comes again at 7; of its third pass, which
    # begins at 8, the first of two steps has reached the server at 9
    assert [line["dropped"] for line in lines[:8]] == [{}, {}, {}, {"b": why}, {}, {}, {}, {"b": why}]
    assert lines[8]["dropped"] == {"b": "under way, after 1 of 2 steps"}
    assert all(c["held_sha256"] == c["delivered_sha256"] for c in recorder.clients if c["round"] == 9)
    # who computes all the time pays a joule a second, also for what is dropped, in the round in which a pass ends
    assert [line["simulated_joules"] for line in lines] == [1, 1, 1, 1 + 3, 1, 1, 1, 1 + 3, 1 + 1]
    [of_b] = [c for c in recorder.clients if c["client"] == "b" and c["round"] == 9]
    assert (of_b["steps"], of_b["simulated"]["compute"], of_b["simulated"]["finished"]) == (1, 1, 1)
    assert lines[8]["examples"] == sum(c["examples"] for c in recorder.clients if c["round"] == 9) > of_b["examples"]


@pytest.mark.slow
def test_a_client_that_fails_in_the_middle_starts_anew(make_config, train_quietly):
    """b would come at 3; it fails before its second step, which is due at 2.25, and starts with the next round."""
    recorder = train_quietly(
        by_hand(two(make_config, faults={"crash_at": {"b": {"round": 1, "step": 1}}}), {"a": 1, "b": 3})
    )
    lines = recorder.metrics[1:]
    assert [line["dropped"] for line in lines[:7]] == [{}, {}, {"b": "failed before step 1"}, {}, {}, {}, {}]
    assert [line["staleness"] for line in lines[:7]] == [*[{"a": 0}] * 6, {"b": 3}]
    assert [c["steps"] for c in recorder.clients if c["client"] == "b" and c["round"] in (3, 7)] == [1, 2]
    assert [line["simulated_joules"] for line in lines[:4]] == [1, 1, 1 + 1.5, 1]


@pytest.mark.slow
def test_groups_have_buffers_of_their_own(make_config, train_quietly):
    """Of g all three must come and of h both, which are faster: they do not wait for g, and c waits across rounds."""
    federation = by_hand(groups(make_config, asynchrony={"buffer": 3}), {"a": 2, "b": 2, "c": 1.2, "d": 1, "e": 0.5})
    recorder = train_quietly(federation)
    lines = [line for line in recorder.metrics if line["round"]]
    assert [line["participants"] for line in lines] == [
        [],
        ["d", "e"],
        ["a", "b", "c"],
        [],
        [],
        ["d", "e"],
        [],
        ["d", "e"],
    ]
    assert [line["simulated_seconds"] for line in lines[::2]] == [1, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["heads at clients", "copies of the server"])
def test_a_run_that_goes_on_with_clients_under_way_is_the_run_that_never_stopped(case, make_config, train_quietly):
    stopped, faults = 3, {"slow": {"b": 2.2, "c": 7.0}}
    if case == "heads at clients":
        training = {"rounds": 5, "labels": "client", "asynchrony": {"buffer": 2}}
        config = config_of(make_config, training=training, faults=faults)
    else:
        config = groups(make_config, server_update="per-client", asynchrony={"buffer": 2}, rounds=6)
    saved = {}

    def keep(number):
        if number == stopped:
            tensors, values = state.capture()
            saved.update(tensors=tensors, values=json.loads(json.dumps(values)))

    federation = build(config)
    state = RunState(federation)
    whole = train_quietly(federation, checkpoint=keep)
    assert saved["values"]["under_way"]["passes"], "nobody is under way"
    again = build(config)
    other = RunState(again)
    other.restore(saved["tensors"], saved["values"])
    rest = train_quietly(again, done=stopped)
    one, two = state.capture(), other.capture()
    assert one[0].keys() == two[0].keys() and all(torch.equal(one[0][name], two[0][name]) for name in one[0])
    timed = ("seconds", "samples_per_second")
    strip = lambda lines: [{k: v for k, v in line.items() if k not in timed} for line in lines]  # noqa: E731
    assert strip([line for line in whole.metrics if line["round"] > stopped]) == strip(rest.metrics)
    assert max(s for line in whole.metrics for s in line.get("staleness", {"": 0}).values()) > 0


@pytest.mark.parametrize(
    ("method", "exponent"), [("delta-svd", 0.5), ("delta-svd", 0.0), ("zero-pad", 0.5), ("ffa", 0.5)]
)
def test_a_late_update_adds_what_its_client_changed(method, exponent, make_config):
    """The group's adapter, and heads, against sums of dense float64 matrices; clients have three ranks.

    ``delta-svd`` adds changes of dW; the others average A and B as if they had begun with the present ones.
    """
    config = config_of(
        make_config,
        aggregation={"method": method},
        training={"labels": "client", "asynchrony": {"buffer": 2}},
    )
    rule = config.training.asynchrony.model_copy(update={"staleness_exponent": exponent})
    federation = build(config)
    aggregator, ledger = federation.aggregator, Ledger()
    aggregator.earlier.rule = rule
    set_up(federation)
    group, draw = aggregator.groups["g"], torch.Generator().manual_seed(0)

    def change(client):
        """Train, as if: what dW and the head become."""
        with torch.no_grad():
            for parameter in federation.clients[client].trained():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
        return held(client)

    def held(client):
        """The client's products, its scale-free factors padded to the group's rank, and its head, in float64."""
        member = aggregator.members[client]
        dense, factors = {}, {}
        for path, a in member.adapters.adapters.items():
            A, B = a.lora_A.detach().double(), a.scaling * a.lora_B.detach().double()
            more = group.merged[path].rank - len(A)
            dense[path], factors[path] = B @ A, (pad(A, (0, 0, 0, more)), pad(B, (0, more)))
        return dense, factors, {n: t.double() for n, t in member.head_state().items()}

    def whole():
        return {path: f.B.double() @ f.A.double() for path, f in group.merged.items()}

    def moved(part, name):
        """Of the present and the earlier client, the weighted changes of a part of ``held``."""
        return a * (after["a"][part][name] - fresh[part][name]) + c * (after["c"][part][name] - began[part][name])

    def averaged(path, i):
        """A (0) or B (1) as the mean over both clients, as if they had begun with what the group has now."""
        if method == "ffa" and i == 0:
            return present[path].A.double()
        late = after["c"][1][path][i] - began[1][path][i]
        now = present[path][i].double().clone()
        rank = aggregator.members["c"].ranks[path]
        (now if i == 0 else now.T)[rank:] = 0
        return a * after["a"][1][path][i] + (1 - a) * (now + 2**-exponent * late)

    began = held("c")
    federation.under_way.begin("c", 1)
    for client in "ab":
        change(client)
    aggregator.merge("g", ["a", "b"], ledger, 1)
    deliver(federation, ["a"], ledger)
    fresh = held("a")
    before, present = whole(), dict(group.merged)
    head = {name: t.double() for name, t in aggregator.head_of("a").items()}
    after = {client: change(client) for client in "ac"}
    assert aggregator.earlier.staleness("c") == 1
    aggregator.merge("g", ["a", "c"], ledger, 2)
    weights = {c: aggregator.members[c].weight for c in "ac"}
    a, c = (weights[client] / sum(weights.values()) for client in "ac")
    c *= 2**-exponent
    for path, merged in whole().items():
        if method == "delta-svd":
            U, S, Vh = torch.linalg.svd(before[path] + moved(0, path))
            rank = group.merged[path].rank
            expected = U[:, :rank] * S[:rank] @ Vh[:rank]
        else:
            expected = averaged(path, 1) @ averaged(path, 0)
        torch.testing.assert_close(merged, expected, atol=1e-6, rtol=1e-4)
    for name, merged in aggregator.head_of("a").items():
        torch.testing.assert_close(merged.double(), head[name] + moved(2, name), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "reason"), [("server", "waits for a merge"), ("client", "staleness 1 is more than 0")]
)
def test_bytes_are_the_sum_of_events(labels, reason, make_config, train_quietly, monkeypatch):
    """What the clock knew of messages before they were computed is what the ledger counts.

    Unfinished passes too, and updates that are too stale, or wait for a merge when training ends.
    """
    if labels == "server":
        federation = build(groups(make_config, rounds=2, asynchrony={"buffer": 3}))
    else:
        training = {"labels": labels, "rounds": 3, "asynchrony": {"buffer": 2, "max_staleness": 0}}
        federation = build(config_of(make_config, training=training, faults={"slow": {"b": 2.2, "c": 2.3}}))
    under_way, up, down = federation.under_way, 0, 0
    begin, following, deliver = under_way.begin, under_way.next, under_way.deliver

    def begun(client, number, *, delivered):
        nonlocal down
        begin(client, number, delivered=delivered)
        down += under_way._works[client].adapter_bytes_down

    def arrived():
        nonlocal up, down
        arrival = following()
        work = under_way._works[arrival.client]
        if arrival.step < len(work.steps):
            up += work.steps[arrival.step].bytes_up
            down += work.steps[arrival.step].bytes_down
        else:
            up += work.adapter_bytes_up
        return arrival

    def delivered(clients, merged):
        nonlocal down
        sent = [client for client in clients if federation.aggregator.is_behind(client)]
        down += sum(work_of_pass(federation, client, 3).adapter_bytes_down for client in sent)
        deliver(sent, merged)

    monkeypatch.setattr(under_way, "begin", begun)
    monkeypatch.setattr(under_way, "next", arrived)
    monkeypatch.setattr(under_way, "deliver", delivered)
    recorder = train_quietly(federation)
    lines = [line for line in recorder.clients if line["round"] > 0]
    assert reason in {why for line in recorder.metrics for why in line["dropped"].values()}
    assert sum(line["bytes_up"] for line in lines) == up
    assert sum(line["bytes_down"] for line in lines) == down


@pytest.mark.slow
def test_times_and_energy_are_those_of_the_synchronous_run_where_devices_are_equal(make_config, train_quietly):
    """Of a buffer of all, round by round and client by client, deliveries included."""

    def lines(**rule):
        training = {"server_update": "per-client", "rounds": 2, **rule}
        config = config_of(make_config, training=training, faults={}).model_dump()
        config["devices"]["phone"]["watts"] = "2 W"
        config["clients"] = {name: {**client, "rank": 3} for name, client in config["clients"].items()}
        recorder = train_quietly(build(ExperimentConfig.model_validate(config)))
        rounds = [[line["simulated_seconds"], line["simulated_joules"]] for line in recorder.metrics[1:]]
        return rounds, [(line["round"], line["client"], line["simulated"]) for line in recorder.clients]

    (rounds, clients), (own, of_own) = lines(), lines(asynchrony={"buffer": 3})
    assert [each for line in own for each in line] == pytest.approx([each for line in rounds for each in line])
    for (number, client, parts), (*other, found) in zip(clients, of_own, strict=True):
        assert other == [number, client] and (found is None) == (parts is None)
        assert parts is None or found == pytest.approx(parts, abs=1e-9)


def test_a_copy_of_the_server_moves_by_what_changed_since_its_client_began(make_config):
    """c's copy began before a was merged; its change counts half, and a's the rest, by labels."""
    training = {"server_update": "per-client", "asynchrony": {"buffer": 1}}
    copies, other = (build(config_of(make_config, training=training)).server.copies for _ in range(2))
    group, draw = copies.groups["g"], torch.Generator().manual_seed(0)

    def values(trained):
        return [parameter.detach().double().clone() for parameter in trained.parameters()]

    def train(client, labels):
        copied = copies.get(client)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
        copied.trained_on = [labels] * len(copied.parameters())
        return values(copied)

    first = values(group)
    copies.begin({"a": "g", "c": "g"})
    after_a, after_c = train("a", 4), train("c", 12)
    copies.merge(["a"], {}, going_on=["c"])
    torch.testing.assert_close(values(group), after_a, atol=1e-6, rtol=1e-6)
    copies.begin({"a": "g", "c": "g"})
    again = train("a", 4)
    other.load_state_dict(copies.state_dict())
    for name, trained in copies.groups.items():
        other.groups[name].take_values(trained)
    copies.merge(["a", "c"], {"c": 0.5}, going_on=())
    changes = zip(after_a, again, first, after_c, strict=True)
    expected = [now + 0.25 * (a - now) + 0.75 * 0.5 * (c - began) for now, a, began, c in changes]
    torch.testing.assert_close(values(group), expected, atol=1e-6, rtol=1e-6)
    other.merge(["a", "c"], {"c": 0.5}, going_on=())
    assert all(map(torch.equal, values(other.groups["g"]), values(group)))
