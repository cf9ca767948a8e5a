"""Runs that merge by clusters: who is merged with whom, what goes along, and what controls are equal to."""

import copy
import csv
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.rounds import run_round

from atlas_cli.aggregation.contract import Context, Factors, Update, absorb, scales_of
from atlas_cli.clustering.fingerprints import fingerprint_round
from atlas_cli.clustering.in_a_run import name_clusters
from atlas_cli.clustering.regroup import regroup
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.round_loop import deliver, evaluate, require_delivered, set_up
from atlas_cli.federation.build import build
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

FAST = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}
TIMINGS = ("seconds", "samples_per_second")


@pytest.fixture
def two_groups(make_config, toy_csv):
    """Groups g (a, b, c) and h (d, e) of one text, ranks 4, 2, 3 and 2, 3."""

    def make(family="bert", **changes):
        spec = {"task": "sequence-classification", "data": {"files": toy_csv}}
        more = {"d": {"task_group": "h", "rank": 2}, "e": {"task_group": "h", "rank": 3}}
        return make_config(family, task_groups={"h": spec}, clients=more, **changes)

    return make


def dense(merged):
    return {path: (factors.B.double() @ factors.A.double()) for path, factors in merged.items()}


def a_round(made, number):
    ledger = Ledger()
    deliver(made, list(made.clients), ledger)
    run_round(made, list(made.clients), number, ledger, lambda *_: None)
    held = {c: Update(c, m.weight, absorb(copied(m), scales_of(m.adapters))) for c, m in members(made).items()}
    heads = {c: {n: t.clone() for n, t in m.head_state().items()} for c, m in members(made).items()}
    for group in made.aggregator.groups:
        made.aggregator.merge(group, [c for c in made.clients if members(made)[c].group == group], ledger, number)
    deliver(made, list(made.clients), ledger)
    require_delivered(made, made.clients)
    assert ledger.mismatches() == []
    return held, heads


def members(made):
    return made.aggregator.members


def copied(member):
    return {name: value.clone() for name, value in member.adapters.state().items()}


def matrix(head):
    return head.classifier.weight


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_the_oracle_is_a_run_without_clusters(mode, two_groups, train_quietly):
    alike = {"mode": mode, "training": {"local_steps": 1}}
    plain, oracle = (train_quietly(build(two_groups(clustering=c, **alike))) for c in (None, {"by": "oracle"}))
    for ours, theirs in ((plain.metrics, oracle.metrics), (plain.clients, oracle.clients)):
        assert [{k: v for k, v in line.items() if k not in TIMINGS} for line in ours] == [
            {k: v for k, v in line.items() if k not in TIMINGS} for line in theirs
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "labels"),
    [
        ("delta-svd", "server"),
        ("fedsa", "client"),
        ("flora", "server"),
        ("zero-pad", "server"),
        ("ffa", "server"),
        ("fedsa", "server"),
        *((method, "client") for method in ("zero-pad", "delta-svd", "ffa", "flora")),
    ],
)
def test_one_cluster_merges_the_clients_of_all_task_groups_and_heads_of_each(method, labels, two_groups):
    training = {**FAST, "labels": labels}
    made = build(two_groups(clustering={"by": "single"}, aggregation={"method": method}, training=training))
    set_up(made)
    before = copy.deepcopy(made.aggregator.groups["cluster-0"].merged)
    held, heads = a_round(made, 1)
    expected = made.aggregator.method.aggregate(before, [held[c] for c in "abcde"], Context("cluster-0", 1))
    for path, product in dense(expected.adapters).items():
        torch.testing.assert_close(dense(made.aggregator.groups["cluster-0"].merged)[path], product)
    assert {m.part for m in members(made).values()} == {"g.cluster-0", "h.cluster-0"}
    if labels == "client":
        for part, group in (("g.cluster-0", "abc"), ("h.cluster-0", "de")):
            total = sum(members(made)[c].weight for c in group)
            for name, value in made.aggregator.heads[part].named_parameters():
                mean = sum(members(made)[c].weight / total * heads[c][f"head.{name}"] for c in group)
                torch.testing.assert_close(value, mean)
    else:
        assert set(made.server.groups) == set(made.server.heads) == {"g.cluster-0", "h.cluster-0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "labels"),
    [
        ("delta-svd", "client"),
        ("ffa", "server"),
        ("zero-pad", "server"),
        ("zero-pad", "client"),
        ("delta-svd", "server"),
        ("ffa", "client"),
    ],
)
def test_what_was_learned_goes_along(method, labels, two_groups):
    """Two groups become three clusters of mixed clients, then one; values are means over where clients come from."""
    made = build(two_groups(aggregation={"method": method}, training={**FAST, "labels": labels}))
    set_up(made)
    a_round(made, 1)
    weight = {c: m.weight for c, m in members(made).items()}
    former, adapters = dense(made.aggregator.groups["g"].merged), dense(made.aggregator.groups["h"].merged)
    cut = {g: {p: Factors(f.A[:3], f.B[:, :3]) for p, f in made.aggregator.groups[g].merged.items()} for g in "gh"}
    nested = {group: dense(factors) for group, factors in cut.items()}
    heads = made.aggregator.heads if labels == "client" else made.server.heads
    head = {group: matrix(heads[group]).clone() for group in "gh"}
    moved = regroup(made, {"a": "x", "b": "x", "c": "y", "d": "y", "e": "z"})
    assert moved == list("abcde")
    groups, versions = made.aggregator.groups, {c: m.version for c, m in members(made).items()}
    assert versions == {"a": 1, "b": 1, "c": -1, "d": -1, "e": 1}  # a mean is news to all; a part of a group is not
    for path in former:
        torch.testing.assert_close(dense(groups["x"].merged)[path], former[path])
        torch.testing.assert_close(dense(groups["z"].merged)[path], adapters[path])
        mean = (weight["c"] * former[path] + weight["d"] * adapters[path]) / (weight["c"] + weight["d"])
        U, S, Vh = torch.linalg.svd(mean)
        best = U[:, :3] * S[:3] @ Vh[:3]
        if method == "ffa":  # its ranks are nested: the first three rows of A, as client c has them
            first = [weight[c] / (weight["c"] + weight["d"]) * nested[g][path] for c, g in (("c", "g"), ("d", "h"))]
            best = sum(first)
        torch.testing.assert_close(dense(groups["y"].merged)[path], best, atol=1e-7, rtol=1e-4)
    heads = made.aggregator.heads if labels == "client" else made.server.heads
    assert set(heads) == {"g.x", "g.y", "h.y", "h.z"} == set(made.server.groups)
    assert all(torch.equal(matrix(heads[part]), head[part[0]]) for part in heads)
    a_round(made, 2)
    held = {part: (matrix(heads[part]).clone(), made.server.groups[part].adapters.state()) for part in heads}
    regroup(made, dict.fromkeys("abcde", "x"))
    heads = made.aggregator.heads if labels == "client" else made.server.heads
    share = {"g.x": weight["a"] + weight["b"], "g.y": weight["c"]}
    total = sum(share.values())
    torch.testing.assert_close(matrix(heads["g.x"]), sum(s / total * held[p][0] for p, s in share.items()))
    for name, value in made.server.groups["g.x"].adapters.state().items():
        torch.testing.assert_close(value, sum(s / total * held[p][1][name] for p, s in share.items()))
    a_round(made, 3)


@pytest.mark.slow
def test_a_cluster_that_stays_together_keeps_everything(two_groups):
    made = build(two_groups(training=FAST))
    set_up(made)
    regroup(made, {"a": "x", "b": "x", "c": "y", "d": "y", "e": "y"})
    a_round(made, 1)
    versions = {c: m.version for c, m in members(made).items()}
    kept = made.server.groups["g.x"], made.aggregator.groups["x"].merged, made.aggregator.groups["x"].version
    assert regroup(made, {"a": "x", "b": "x", "c": "y", "d": "y", "e": "z"}) == ["e"]
    assert made.server.groups["g.x"] is kept[0] and made.aggregator.groups["x"].merged is kept[1]
    assert made.aggregator.groups["x"].version == kept[2] and made.server.groups["g.x"].optimizer.state
    assert {c: m.version for c, m in members(made).items()} == versions  # y was only divided
    assert not made.server.groups["h.z"].optimizer.state


@pytest.fixture
def hidden_tasks(make_config, tmp_path):
    """One declared group; the last three of six clients call good what the first three call bad."""
    draw, rows = random.Random(0), []
    for i in range(360):
        tone = ("good", "bad")[i % 2]
        label = ("pos", "neg")[(i % 2) ^ (i >= 180)]
        rows.append([" ".join([*draw.choices(["the", "film", "was", "phone", "city", "and"], k=4), tone]), label])
    file = tmp_path / "hidden.csv"
    tests = [[f"the film was {word}", label] for word, label in (("fine", "pos"), ("poor", "neg"))]
    for path, part in ((file, rows), (file.with_name("test.csv"), tests)):
        with path.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["text", "label"], *part])
    names = [*(f"a-{k + 1}" for k in range(4)), "b", "c"]
    shards = {name: [f"{60 * k}-{60 * k + 59}"] for k, name in enumerate(names)}

    def make(**changes):
        return make_config(
            task_groups={"g": {"data": {"files": str(file), "test_files": str(file.with_name("test.csv"))}}},
            clients={"a": {"rank": 2, "count": 4}},
            partition={"scheme": "explicit", "shards": shards, "local_test": 0.25},
            training={**FAST, "rounds": 6, "local_steps": 5, "batch_size": 8},
            **changes,
        )

    return make


@pytest.mark.slow
def test_hidden_tasks_are_found_and_learned(hidden_tasks, train_quietly):
    """Clients of contradicting tasks under one name learn nothing together, and each its task once told apart."""
    scores = {}
    for by in ("oracle", "fingerprints"):
        made = build(hidden_tasks(clustering={"by": by} | ({"k": 2} if by == "fingerprints" else {})))
        train_quietly(made)
        local = evaluate(made).clients
        scores[by] = sum(each["accuracy"] for each in local.values()) / len(local)
    clusters = [m.cluster for m in members(made).values()]
    assert clusters == ["cluster-0"] * 3 + ["cluster-1"] * 3
    assert scores["oracle"] < 0.7 and scores["fingerprints"] > 0.9


@pytest.mark.slow
def test_clustering_again_averages_fingerprints_of_fresh_examples(hidden_tasks, train_quietly):
    rule = {"by": "fingerprints", "k": 2, "every": 2, "batches": 1}
    made = build(hidden_tasks(clustering=rule))
    recorder = train_quietly(made)
    assert [c["round"] for c in recorder.clustered] == [0, 3, 5]
    sums = {}
    for turn in range(3):
        for client, each in fingerprint_round(made, Ledger(), 1, 64, turn).items():
            sums[client] = sums.get(client, 0) + each
    assert all(torch.equal(made.fingerprints[c], total) for c, total in sums.items())


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_names_follow_clients(clients):
    """Names are a relabelling, equal where the clusters are, and no two clusters share one."""
    before = {client: f"cluster-{old}" for client, (old, _) in clients.items()}
    found = {client: new for client, (_, new) in clients.items()}
    names = name_clusters(found, before)
    assert len(set(names.values())) == len(set(found.values())) == len({(found[c], names[c]) for c in found})
    old = {client: number for client, (number, _) in clients.items()}
    assert name_clusters(old, before) == before
    fresh = name_clusters(found, dict.fromkeys(found))
    assert set(fresh.values()) == {f"cluster-{i}" for i in range(len(set(found.values())))}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clustering": {}, "clients": {"a": {"split_layer": 1}}}, "clusters need one split layer"),
        ({"clustering": {"every": 1}, "aggregation": {"method": "flora"}}, "flora keeps what clients learned in more"),
        ({"clustering": {"every": 1}, "aggregation": {"method": "fedsa"}}, "fedsa keeps what clients learned in more"),
    ],
)
def test_what_clusters_cannot_be_combined_with(changes, says, make_config):
    with pytest.raises(ConfigError, match=says):
        make_plan(make_config(**changes))
