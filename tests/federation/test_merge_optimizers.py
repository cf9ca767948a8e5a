"""Runs whose groups move by ``aggregation.optimizer``: where it is refused, what it keeps, and what a run records."""

import pytest
from support.merging import asked

from atlas_cli import discovery
from atlas_cli.config.checks import cross_check
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.federation.build import build
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.method import merge_optimizer_of
from atlas_cli.planning.plan import make_plan

YOGI = {"name": "yogi", "lr": 1e-3}


@pytest.mark.parametrize(
    ("method", "rule", "key", "why"),
    [
        ("none", YOGI, "optimizer", "none, which merges nothing"),
        ("fedsa", YOGI, "optimizer", "no adapter of the group"),
        ("flora", {"lr": 0.5}, "optimizer", "merges into the frozen weights"),
        ("fedex", {"name": "momentum"}, "optimizer", "merges into the frozen weights"),
        ("rolora", {"name": "momentum"}, "optimizer", "merges A and B in turn"),
        ("fedsvd", {"name": "momentum"}, "optimizer", "turns the A that its clients share"),
        ("scaffold", YOGI, "optimizer", "tensors of its own by component"),
        ("ffa", {**YOGI, "second": "row-column"}, "optimizer.second", "one A that does not change"),
        ("delta-svd", {"momentum": 0.9}, "optimizer.momentum", "only used with momentum, adam, yogi, adagrad"),
        ("delta-svd", {"name": "momentum", "tau": 1.0}, "optimizer.tau", "only used with adam, yogi, adagrad"),
        ("delta-svd", {"name": "momentum", "second": "layer"}, "optimizer.second", "only used with adam"),
        ("delta-svd", {"rank": 3}, "optimizer.rank", "only used with momentum"),
        ("delta-svd", {"name": "adagrad", "lr": 0.1, "decay": 0.9}, "optimizer.decay", "only used with adam, yogi"),
        ("delta-svd", {"name": "adam"}, "optimizer.lr", "adam needs a rate"),
    ],
)
def test_is_refused_where_it_is_not_defined_and_so_are_keys_that_a_rule_does_not_use(
    method, rule, key, why, make_config
):
    config = make_config(aggregation={"method": method, "optimizer": rule})
    found = [(".".join(map(str, problem.path)), problem.message) for problem in cross_check(config)]
    if not found:
        with pytest.raises(ConfigError) as error:
            make_plan(config)
        found = [(error.value.key, str(error.value))]
    ((where, said),) = found
    assert where == f"aggregation.{key}" and why in said


@pytest.mark.parametrize("rule", [{}, {"name": "sgd", "lr": 1.0}, {"name": "momentum", "momentum": 0.0}])
def test_without_anything_to_do_there_is_none(rule, make_config):
    """A run is then that of the method, bit for bit: nothing else is computed."""
    for method in discovery.names("aggregation.methods"):
        assert merge_optimizer_of(make_config(aggregation={**asked(method), "optimizer": rule})) is None


def test_where_nothing_is_merged_there_is_none(make_config):
    assert merge_optimizer_of(make_config(mode="local-only", aggregation={"optimizer": YOGI})) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rule", "labels"),
    [
        ("ffa", {"name": "adam", "lr": 1e-3}, "server"),
        ("delta-svd", {**YOGI, "second": "row-column", "rank": 3}, "client"),
        ("flexlora", {"name": "momentum", "lr": 0.5}, "server"),
    ],
)
def test_what_it_keeps_is_predicted_and_measured_and_recorded(
    method, rule, labels, make_config, train_quietly, monkeypatch
):
    aggregation = {"method": method, "optimizer": rule}
    made = build(make_config(aggregation=aggregation, training={"rounds": 1, "local_steps": 1, "labels": labels}))
    measured = []
    monkeypatch.setattr(MeasuredRound, "end", lambda self, files: measured.append(self.record()))
    recorder = train_quietly(made)
    kept = sum(4 * tensor.numel() for tensor in made.aggregator.optimizer.tensors().values())
    classes = {"g": ["neg", "pos"]}
    said = predict(made.plan, classes).server.optimizer
    plain = predict(make_plan(make_config(aggregation={"method": method}, training={"labels": labels})), classes)
    assert said - plain.server.optimizer == kept > 0
    assert measured[0]["server"]["optimizer"] == said
    lost = [line["optimizer_truncation"] for line in recorder.metrics]
    assert lost[0] is None and (0.01 < lost[1] < 1 if "rank" in rule else lost[1] < 1e-6)
