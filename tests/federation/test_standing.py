"""Clients that are alike stand at one place: what is done to all is done once, and what one does changes no other."""

import random
from types import SimpleNamespace

import pytest

from atlas_cli.experiment.delivery import deliver, require_delivered
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.build import build
from atlas_cli.federation.client_state.member import Member, Standing, by_standing, restand, standings
from atlas_cli.federation.merging.group_weights import GroupWeights
from atlas_cli.wire.ledger import Ledger


@pytest.fixture
def made(make_config, tmp_path):
    clients = {n: {"count": count} for n, count in (("a", 3), ("b", 1), ("c", 2))}
    clients["c"]["wire"] = {"header": "compact"}
    federation = build(make_config(clients=clients, engine={"offload": "1 KiB"}, output={"dir": str(tmp_path)}))
    yield federation
    federation.close()


def places(federation):
    """By the names of those that share it, version and delivery."""
    found = by_standing(federation.aggregator.members, federation.clients)
    return {tuple(names): (standing.version, standing.delivered_sha256) for standing, names in found.items()}


def test_clients_that_begin_alike_stand_alike_and_so_do_they_after_a_delivery(made):
    kinds = [("a-1", "a-2", "a-3", "b"), ("c-1", "c-2")]
    if made.plan.by_name["a-1"].ranks != made.plan.by_name["b"].ranks:
        kinds = [("a-1", "a-2", "a-3"), ("b",), ("c-1", "c-2")]
    assert list(places(made)) == kinds and {version for version, _ in places(made).values()} == {-1}
    set_up(made)
    found = places(made)
    assert list(found) == kinds and all(version == 0 and sha256 for version, sha256 in found.values())
    require_delivered(made, made.clients, anew=True)


def test_who_takes_part_stands_by_itself_until_it_is_as_others_again(made):
    set_up(made)
    before, members = places(made), made.aggregator.members
    with made.at_hand(["a-2"]):
        assert ("a-2",) in places(made) and members["a-2"].standing is not members["a-1"].standing
    assert places(made) == before and members["a-2"].standing is members["a-1"].standing
    with made.at_hand(["a-2"]):
        next(iter(made.clients["a-2"].adapters.parameters())).data += 1
    assert ("a-2",) in places(made)
    made.aggregator.groups["g"].version += 1  # who trained and who did not are sent the same
    deliver(made, made.clients, Ledger())
    assert places(made).keys() == before.keys() and members["a-2"].standing is members["a-1"].standing
    require_delivered(made, made.clients, anew=True)


def test_a_delivery_to_some_leaves_those_that_it_did_not_reach_where_they_stood(made):
    set_up(made)
    made.aggregator.groups["g"].version += 1
    deliver(made, [name for name in made.clients if name not in ("a-1", "c-2")], Ledger())
    versions = {name: member.version for name, member in made.aggregator.members.items()}
    assert versions == {"a-1": 0, "a-2": 1, "a-3": 1, "b": 1, "c-1": 1, "c-2": 0}
    require_delivered(made, made.clients, anew=True)
    held = {key for member in made.aggregator.members.values() for key in member.stored.keys}
    assert held == set(made.offload.store._entries)
    counts = {key: entry.holders for key, entry in made.offload.store._entries.items()}
    keys = [key for member in made.aggregator.members.values() for key in member.stored.keys]
    assert counts == {key: keys.count(key) for key in held}


def test_what_is_written_of_one_is_not_written_of_those_that_it_stood_with(made):
    set_up(made)
    members = made.aggregator.members
    members["a-2"].version = 7
    assert [members[name].version for name in ("a-1", "a-2", "a-3")] == [0, 7, 0]
    restand([members["a-1"], members["a-3"]], cluster="x")
    assert members["a-1"].standing is members["a-3"].standing and members["a-1"].group == "x"
    assert members["a-2"].group == "g" and members["a-1"].part == "g.x"


def drawn_members(draw, count=40):
    """Members of two task groups and three clusters that stand at a few places, with weights that round."""
    stored = [
        SimpleNamespace(ranks={f"l{n}": draw.choice([1, 2, 4]) for n in range(draw.randint(0, 5))}) for _ in "abc"
    ]
    places = [
        Standing(task_group, cluster, stored=each)
        for task_group in "gh"
        for cluster in (None, "x", "y")
        for each in stored
    ]
    own = {f"c-{n}": draw.choice(places) for n in range(count)}
    return {name: Member.idle(each, draw.random() * 10, frozenset(), None) for name, each in own.items()}


@pytest.mark.parametrize("seed", range(20))
def test_weights_are_those_of_clients_added_up_one_by_one(seed):
    members = drawn_members(random.Random(seed))
    weights = GroupWeights(members)
    for task_group in "gh":
        expected, parts = {}, {}
        for member in members.values():
            if member.task_group == task_group:
                expected[member.group] = expected.get(member.group, 0.0) + member.weight
                parts[member.part] = member.group
        assert list(weights.weights(task_group).items()) == list(expected.items())
        assert list(weights.parts(task_group).items()) == list(parts.items())
    for group in ("g", "h", "x", "y"):
        by_rank = {}
        for member in members.values():
            for path, rank in member.ranks.items() if member.group == group else ():
                of_layer = by_rank.setdefault(path, {})
                of_layer[rank] = of_layer.get(rank, 0.0) + member.weight
        found = weights.by_rank(group, [])
        assert [(path, list(each.items())) for path, each in found.items()] == [
            (path, list(each.items())) for path, each in by_rank.items()
        ]


def test_weights_are_added_up_again_when_a_client_has_other_ranks():
    members = drawn_members(random.Random(0))
    weights = GroupWeights(members)
    name = next(name for name, member in members.items() if member.group == "g" and member.ranks)
    before = weights.by_rank("g", [name])
    assert weights.by_rank("g", [name]) is before
    (path, rank), *_ = members[name].ranks.items()
    restand([members[name]], stored=SimpleNamespace(ranks={path: rank + 1}))
    after = weights.by_rank("g", [name])
    assert after[path][rank + 1] == pytest.approx(before[path].get(rank + 1, 0.0) + members[name].weight)


@pytest.mark.parametrize("seed", range(10))
def test_where_clients_stand_is_in_the_order_of_the_first_of_each(seed):
    draw = random.Random(seed)
    members = drawn_members(draw)
    expected = {}
    for name, member in members.items():
        expected.setdefault(member.standing, []).append(name)
    assert list(by_standing(members, members).items()) == list(expected.items())
    assert list(standings(members).items()) == [(standing, len(names)) for standing, names in expected.items()]
    some = [name for name in members if draw.random() < 0.5]
    found = by_standing(members, some)
    assert sorted(name for names in found.values() for name in names) == sorted(some)
    assert all(members[name].standing is standing for standing, names in found.items() for name in names)
