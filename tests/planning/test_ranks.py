"""prefix-greedy: its three promises on random instances, what it must equal, and that the tests could fail."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.errors import ConfigError
from atlas_cli.planning.ranks.rules import Allocation, RankProblem, allocate, allocate_random, allocate_uniform


def solve(*parts, rule=allocate, **named):
    return rule(RankProblem(*parts, **named))


def at_random(seed, **named):
    return allocate_random(RankProblem(**named), seed)


MANY = settings(max_examples=500, deadline=None, derandomize=True)
amounts = st.one_of(st.integers(0, 40), st.floats(0, 40))
prices = st.one_of(st.integers(1, 40), st.floats(0.01, 40))


@st.composite
def instances(draw):
    """Arguments of ``allocate``: 1 to 6 layers, two budgets of which each may be absent, ties and zeros likely."""
    n = draw(st.integers(1, 6))
    layers = range(n)
    importance = {i: draw(st.one_of(st.sampled_from([0, 1, 2]), st.floats(0, 100))) for i in layers}
    costs = {i: {"memory": draw(prices), "uplink": draw(amounts)} for i in layers}
    r_min = draw(st.integers(1, 3))
    r_max = {i: draw(st.integers(r_min, 12)) for i in layers}
    fixed = {"memory": draw(amounts), "uplink": draw(amounts)}
    budgets = {}
    for resource in ("memory", "uplink"):
        least = fixed[resource] + sum(r_min * costs[i][resource] for i in layers)
        budgets[resource] = draw(st.one_of(st.none(), st.floats(0, 600).map(lambda extra, least=least: least + extra)))
    return {
        "importance": importance,
        "unit_costs": costs,
        "budgets": budgets,
        "fixed": fixed,
        "r_min": r_min,
        "r_max": r_max,
    }


def by_hand(importance, unit_costs, budgets, fixed, r_min, r_max, *, skip=False, price=lambda c: c["memory"]):
    """The rule as algorithms.md words it, an increment at a time; ``skip`` goes on after one that does not fit."""
    increments = [
        (-importance[i] * (math.log1p(r) - math.log(r)) / price(unit_costs[i]), i, r)
        for i in importance
        for r in range(r_min + 1, r_max[i] + 1)
    ]
    ranks = dict.fromkeys(importance, r_min)
    for _, layer, rank in sorted(increments):
        tried = {**ranks, layer: rank}
        if ranks[layer] == rank - 1 and fits(tried, unit_costs, budgets, fixed):
            ranks = tried
        elif not skip:
            break
    return ranks


def fits(ranks, unit_costs, budgets, fixed):
    return all(
        limit is None or fixed[resource] + sum(r * unit_costs[i][resource] for i, r in ranks.items()) <= limit
        for resource, limit in budgets.items()
    )


@pytest.mark.slow
@MANY
@given(instances())
def test_no_budget_is_exceeded_and_limits_hold(instance):
    for method in (allocate, allocate_uniform, allocate_random):
        found = solve(rule=method, **instance)
        assert fits(found.ranks, instance["unit_costs"], instance["budgets"], instance["fixed"])
        assert all(instance["r_min"] <= r <= instance["r_max"][i] for i, r in found.ranks.items())
        for resource, used in found.used.items():
            assert found.budgets[resource] is None or used <= found.budgets[resource]


@pytest.mark.slow
@MANY
@given(instances(), st.sampled_from(["memory", "uplink"]), st.one_of(st.none(), st.floats(0, 300)))
def test_more_of_a_budget_never_lowers_a_rank(instance, resource, extra):
    limit = instance["budgets"][resource]
    more = None if limit is None or extra is None else limit + extra
    for method in (allocate, allocate_uniform):
        before = solve(rule=method, **instance).ranks
        after = solve(rule=method, **{**instance, "budgets": {**instance["budgets"], resource: more}}).ranks
        assert all(after[i] >= before[i] for i in before)


@pytest.mark.slow
@MANY
@given(instances(), st.data())
def test_importance_raises_its_own_layer_and_no_other(instance, data):
    layer = data.draw(st.sampled_from(sorted(instance["importance"])))
    raised = instance["importance"][layer] + data.draw(st.floats(0, 100))
    before = solve(**instance).ranks
    after = solve(**{**instance, "importance": {**instance["importance"], layer: raised}}).ranks
    assert after[layer] >= before[layer]
    assert all(after[i] <= before[i] for i in before if i != layer)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(instances())
def test_equals_the_rule_taken_one_increment_at_a_time(instance):
    assert solve(**instance).ranks == by_hand(**instance)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(instances())
def test_says_what_stopped_it(instance):
    found = solve(**instance)
    if found.stopped_at is None:
        assert found.ranks == instance["r_max"]
        return
    stop = found.stopped_at
    assert found.ranks[stop.layer] == stop.rank - 1
    cost = instance["unit_costs"][stop.layer][stop.resource]
    assert stop.needed == pytest.approx(found.used[stop.resource] + cost)
    assert stop.needed > instance["budgets"][stop.resource]


def random_instances(n):
    draw = random.Random(0)
    for _ in range(n):
        layers = range(draw.randint(2, 6))
        costs = {i: {"memory": draw.randint(1, 40), "uplink": draw.randint(1, 40)} for i in layers}
        least = {resource: sum(costs[i][resource] for i in layers) for resource in ("memory", "uplink")}
        yield {
            "importance": {i: draw.uniform(0.1, 10) for i in layers},
            "unit_costs": costs,
            "budgets": {resource: least[resource] + draw.randint(0, 200) for resource in least},
            "fixed": {"memory": 0, "uplink": 0},
            "r_min": 1,
            "r_max": dict.fromkeys(layers, 12),
        }


def share_lowered(method):
    """Share of random instances in which a little more memory lowers some rank."""
    lowered = 0
    for instance in random_instances(1000):
        budgets = instance["budgets"]
        before = method(instance, budgets)
        after = method(instance, {**budgets, "memory": budgets["memory"] + 10})
        lowered += any(after[i] < before[i] for i in before)
    return lowered / 1000


@pytest.mark.slow
def test_skip_and_continue_breaks_what_prefix_greedy_keeps():
    def skipping(instance, budgets):
        return by_hand(**{**instance, "budgets": budgets}, skip=True)

    def prefix(instance, budgets):
        return solve(**{**instance, "budgets": budgets}).ranks

    assert share_lowered(prefix) == 0
    assert share_lowered(skipping) > 0.05


def test_prices_in_shares_of_the_budgets_would_break_it_too():
    def by_share(instance, budgets):
        def price(cost):
            return max(cost[resource] / budgets[resource] for resource in cost)

        return by_hand(**{**instance, "budgets": budgets}, price=price)

    assert share_lowered(by_share) > 0.01


ALIKE = {"unit_costs": {i: {"memory": 10} for i in range(3)}, "fixed": {"memory": 100}, "r_min": 1, "r_max": 8}


@pytest.mark.parametrize(
    ("importance", "budget", "ranks"),
    [
        ([1, 1, 1], 130, [1, 1, 1]),
        ([1, 1, 1], 139, [1, 1, 1]),
        ([1, 1, 1], 150, [2, 2, 1]),  # ties by layer
        ([1, 1, 1], 160, [2, 2, 2]),
        ([0, 0, 0], 150, [3, 1, 1]),  # all increments tie: by layer
        ([4, 1, 1], 170, [5, 1, 1]),
        ([1, 1, 1], None, [8, 8, 8]),
    ],
)
def test_small_cases(importance, budget, ranks):
    found = solve(dict(enumerate(importance)), budgets={"memory": budget}, **ALIKE)
    assert list(found.ranks.values()) == ranks
    assert found.used == {"memory": 100 + 10 * sum(ranks)}
    assert (found.stopped_at is None) == (budget is None)


def test_dearer_layers_get_less():
    costs = {0: {"memory": 10}, 1: {"memory": 40}}
    found = solve({0: 1, 1: 1}, costs, {"memory": 200}, {}, 1, 64)
    assert found.ranks[0] > found.ranks[1]
    # at the margin, utility for a byte is the same to within an increment
    assert found.ranks[0] == pytest.approx(4 * found.ranks[1], abs=4)


def test_the_scarcer_of_two_budgets_stops_it():
    costs = {0: {"memory": 10, "uplink": 1}, 1: {"memory": 10, "uplink": 1}}
    found = solve({0: 3, 1: 1}, costs, {"memory": 1000, "uplink": 7}, {"uplink": 1}, 1, 64)
    assert found.used == {"memory": 60, "uplink": 7}
    assert found.stopped_at is not None
    assert (found.stopped_at.resource, found.stopped_at.needed) == ("uplink", 8)


def test_a_budget_below_r_min_is_an_error_that_names_client_and_shortfall():
    costs = {i: {"memory": 2**20} for i in range(3)}
    with pytest.raises(ConfigError) as raised:
        solve(
            dict.fromkeys(costs, 1.0),
            costs,
            {"memory": 105 * 2**20},
            {"memory": 100 * 2**20},
            2,
            8,
            client="phone-3",
            key="clients.phone.rank",
        )
    text = str(raised.value)
    assert text.startswith("clients.phone.rank: client phone-3 needs 106 MiB of memory with rank 2 in every layer")
    assert "has 105 MiB, 1.00 MiB too little" in text
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("method", [allocate_uniform, allocate_random])
def test_controls_refuse_what_does_not_fit(method):
    with pytest.raises(ConfigError, match=r"30\.0 MB of uplink"):
        solve({0: 1.0}, {0: {"memory": 1, "uplink": 30_000_000}}, {"uplink": 1_000_000}, {}, 1, 4, rule=method)


def test_uniform_is_the_largest_equal_rank():
    found = solve({0: 9, 1: 0, 2: 1}, rule=allocate_uniform, budgets={"memory": 189}, **ALIKE)
    assert found.ranks == {0: 2, 1: 2, 2: 2}
    assert found.stopped_at is not None
    assert (found.stopped_at.rank, found.stopped_at.needed) == (3, 190)
    assert solve({0: 9, 1: 0, 2: 1}, rule=allocate_uniform, budgets={"memory": 190}, **ALIKE).ranks == {
        0: 3,
        1: 3,
        2: 3,
    }


def test_random_is_seeded_and_spends_the_same():
    layers = range(6)
    setup = {
        "importance": {i: float(i + 1) for i in layers},
        "unit_costs": {i: {"memory": 10} for i in layers},
        "budgets": {"memory": 485},
        "fixed": {},
        "r_min": 1,
        "r_max": 64,
    }
    drawn = {seed: at_random(seed, **setup, client="a") for seed in range(5)}
    assert drawn[0] == at_random(0, **setup, client="a")
    assert len({tuple(found.ranks.values()) for found in drawn.values()}) == 5
    assert at_random(0, **setup, client="b").ranks != drawn[0].ranks
    assert {found.used["memory"] for found in drawn.values()} == {solve(**setup).used["memory"]} == {480}


@pytest.mark.parametrize(
    "change",
    [
        {"importance": {0: -1.0}},
        {"importance": {0: math.nan}},
        {"importance": {0: math.inf}},
        {"importance": {}},
        {"unit_costs": {0: {"memory": 0}}},
        {"unit_costs": {0: {"memory": 1, "uplink": -1}}},
        {"unit_costs": {0: {"memory": math.nan}}},
        {"r_min": 0},
        {"r_min": 9},
    ],
)
def test_senseless_numbers_are_refused(change):
    sound = {"importance": {0: 1.0}, "unit_costs": {0: {"memory": 1}}, "r_min": 1, "r_max": 8}
    assert isinstance(solve(budgets={}, fixed={}, **sound), Allocation)
    with pytest.raises(ValueError, match=r"rank|importance|costs"):
        solve(budgets={}, fixed={}, **{**sound, **change})


@pytest.mark.slow
def test_a_large_model_takes_no_time():
    layers = range(80)
    costs = {i: {"memory": 100 + i, "uplink": 10} for i in layers}
    found = solve(dict.fromkeys(layers, 1.0), costs, {"memory": 10**7}, {}, 1, 1024)
    assert found.stopped_at is not None
    assert 0 <= 10**7 - found.used["memory"] < 180
