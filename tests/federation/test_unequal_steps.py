"""Clients that take fewer local steps than others, and what refuses them."""

import pytest

from atlas_cli.config.checks import cross_check
from atlas_cli.errors import ConfigError
from atlas_cli.federation.build import build
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.method import counted_steps, merge_optimizer_of
from atlas_cli.planning.plan import make_plan

NOVA = {"method": "delta-svd", "normalise": "fednova"}


def fewer(steps, **more):
    return {"b": {"task_group": "g", "rank": 2, "local_steps": steps, **more}}


def test_a_client_takes_its_own_steps_and_weighs_by_them(make_config, train_quietly):
    config = make_config(clients=fewer(1), aggregation=NOVA, training={"rounds": 1})
    made, plain = build(config), build(make_config())
    recorder = train_quietly(made)
    assert {line["client"]: line["steps"] for line in recorder.clients if line["round"] == 1} == {
        "a": 3,
        "b": 1,
        "c": 3,
    }
    weights = [{client: member.weight for client, member in each.aggregator.members.items()} for each in (made, plain)]
    assert weights[0] == weights[1]
    share = {client: weight / sum(weights[0].values()) for client, weight in weights[0].items()}
    recorded = {line["client"]: line["weight"] for line in recorder.clients if line["round"] == 1}
    assert recorded == pytest.approx(share)
    optimizer = made.aggregator.optimizer
    per_step = {client: weight / (1 if client == "b" else 3) for client, weight in weights[0].items()}
    assert {client: optimizer.per_step(client, weight) for client, weight in weights[0].items()} == per_step
    assert optimizer.stretch(per_step) > 1
    bytes_of = predict(made.plan, {"g": ["neg", "pos"]}).rounds
    whole = predict(plain.plan, {"g": ["neg", "pos"]}).rounds
    assert bytes_of["a"] == whole["a"] and bytes_of["b"].up < whole["b"].up / 2


def test_steps_are_counted_with_the_momentum_of_a_client(make_config):
    """Against a sum over the steps in which each gradient acts."""
    sgd = {"client_optimizer": {"name": "sgd", "momentum": 0.9}}
    found = counted_steps(make_config(clients=fewer(2), aggregation=NOVA, training=sgd))
    acts = [sum(0.9**later for later in range(count - step)) for count in (2, 3) for step in range(count)]
    assert found == pytest.approx({"a": sum(acts[2:]), "b": sum(acts[:2]), "c": sum(acts[2:])})
    assert counted_steps(make_config(clients=fewer(2), aggregation=NOVA)) == {"a": 3, "b": 2, "c": 3}


def test_equal_steps_are_merged_as_without_bit_for_bit(make_config):
    """Weights are whole, and there is no optimizer."""
    for clients in ({}, fewer(3)):
        config = make_config(clients=clients, aggregation=NOVA)
        assert counted_steps(config) == {} and merge_optimizer_of(config) is None


@pytest.mark.parametrize(
    ("changes", "key", "why"),
    [
        ({"clients": fewer(4)}, "clients.b.local_steps", "at most training.local_steps, 3, got 4"),
        ({"clients": fewer(2), "mode": "centralized"}, "clients.b.local_steps", "one learner"),
        ({"clients": fewer(2), "privacy": {"nopeek": {"weight": 0.1}}}, "clients.b.local_steps", "accounted for"),
        ({"aggregation": {"method": "zero-pad", "normalise": "fednova"}}, "aggregation.normalise", "weighted sum"),
        ({"aggregation": {"method": "median", "normalise": "fednova"}}, "aggregation.normalise", "weighted sum"),
        ({"aggregation": {"method": "raflora", "normalise": "fednova"}}, "aggregation.normalise", "weighted sum"),
        ({"aggregation": {"method": "flexlora", "normalise": "fednova"}}, "aggregation.normalise", "unequal ranks"),
        ({"aggregation": {"method": "ffa", "normalise": "fednova"}}, "aggregation.normalise", "unequal ranks"),
        (
            {"clients": {"c": {"task_group": "g", "rank": 3, "split_layer": 3}}, "aggregation": NOVA},
            "aggregation.normalise",
            "different split layers",
        ),
    ],
)
def test_what_is_refused(changes, key, why, make_config):
    config = make_config(**changes)
    found = [(".".join(map(str, problem.path)), problem.message) for problem in cross_check(config)]
    if not found:
        with pytest.raises(ConfigError) as error:
            make_plan(config)
        found = [(error.value.key, str(error.value))]
    ((where, said),) = found
    assert where == key and why in said


def test_what_is_merged_per_step_exactly_has_no_cross_term(make_config, train_quietly):
    """At equal ranks, where nothing else is lost."""
    clients = {c: {"task_group": "g", "rank": 3, **({"local_steps": 1} if c == "b" else {})} for c in "abc"}
    recorder = train_quietly(build(make_config(clients=clients, aggregation=NOVA, training={"rounds": 2})))
    terms = [line["aggregation_cross_term"] for line in recorder.metrics if line["round"]]
    assert len(terms) == 2 and max(terms) < 1e-6
