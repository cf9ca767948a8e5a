"""Every key of merges, training, faults, budgets and clients: refused with what to do where it could have no effect."""

import re

import pytest
from support.federations import merged

from atlas_cli.config.checks import cross_check
from atlas_cli.config.schema.aggregation import AggregationConfig
from atlas_cli.config.schema.experiment import ClientConfig
from atlas_cli.config.schema.faults import FaultsConfig, ScreenConfig
from atlas_cli.config.schema.privacy import BudgetConfig
from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.checks import check_before_shapes
from atlas_cli.planning.plan import family_of, model_config

FROZEN = {"clients": {name: {"learns": "frozen", "rank": None} for name in "abc"}}
WHERE = {
    "split": {},
    "none": {"aggregation": {"method": "none"}},
    "frozen": FROZEN,
    "federated": {"mode": "federated"},
    "local-only": {"mode": "local-only"},
    "centralized": {"mode": "centralized"},
}
UNSPLIT, ALONE = {"federated", "local-only", "centralized"}, {"local-only", "centralized"}
UNMERGED = {*ALONE, "frozen", "none"}
DEVICES = {"clients": {name: {"device": "phone-2gib"} for name in "abc"}}
TWO_GROUPS = {"task_groups": {"h": {"task": "sequence-classification"}}, "clients": {"c": {"task_group": "h"}}}
LABELS = {"labels": {"epsilon": 2}}
BUDGET = {"privacy": {**LABELS, "budget": {"epsilon": 8}}}
# by key: a value that is not the default, what it needs besides, and where it is refused. Where it is taken and idle it
# describes the experiment that a baseline is compared with, or is said to be idle at the start of the run.
TABLE = {
    "aggregation.method": ("flexlora", {}, set()),
    "aggregation.options": ({"trim": 0.3}, {"aggregation": {"method": "trimmed-mean"}}, {"none"}),
    "aggregation.weights": ("uniform", {}, set()),
    "aggregation.normalise": (
        "fednova",
        {"aggregation": {"method": "delta-svd"}, "clients": {"b": {"local_steps": 1}}},
        UNMERGED,
    ),
    "aggregation.server_memory": ("1 GiB", {}, set()),
    "aggregation.optimizer": ({"name": "adam", "lr": 1e-4}, {}, UNMERGED),
    "aggregation.cross_group": ({"strength": 0.5}, TWO_GROUPS, UNMERGED),
    "aggregation.error_ledger": (False, {}, set()),
    "training.rounds": (3, {}, set()),
    "training.early_stopping": ({}, {"holdout": {"validation": 0.1}}, set()),
    "training.asynchrony": (
        {"buffer": 1},
        {**DEVICES, "training": {"server_update": "sequential"}},
        {*UNSPLIT, "frozen", "none"},
    ),
    "training.local_steps": (2, {}, set()),
    "training.batch_size": (2, {}, set()),
    "training.max_length": (16, {}, set()),
    "training.on_truncated": ("drop", {}, set()),
    "training.cohort": (0.5, {}, set()),
    "training.server_update": ("sequential", {}, set()),
    "training.labels": ("client", {}, {*UNSPLIT, "frozen"}),
    "training.client_optimizer": ({"lr": 0.1}, {}, set()),
    "training.server_optimizer": ({"lr": 0.1}, {}, set()),
    "training.schedule": ({"name": "linear"}, {}, set()),
    "training.drift": ({"name": "fedprox"}, {}, UNMERGED),
    "training.auxiliary": ({"every": 2}, {"clients": {"a": {"learns": "auxiliary"}}}, {*UNSPLIT, "frozen"}),
    "training.zeroth_order": ({"probes": 2}, {"clients": {"a": {"learns": "zeroth-order"}}}, {*UNSPLIT, "frozen"}),
    "training.max_grad_norm": (0.5, {}, set()),
    "training.autocast": ("bfloat16", {}, set()),
    "training.on_nonfinite": ("drop-client", {}, set()),
    "training.deadline": ("60 s", DEVICES, UNSPLIT),
    "training.min_clients": (3, {}, {"centralized"}),
    "faults.drop": (0.5, {}, {"centralized"}),
    "faults.slow": ({"a": 2.0}, DEVICES, UNSPLIT),
    "faults.crash_at": ({"a": {"round": 1}}, {}, {"centralized"}),
    "screen.max_norm_ratio": (3.0, {}, UNMERGED),
    "privacy.budget.epsilon": (8, {"privacy": LABELS}, ALONE),
    "privacy.budget.delta": (1e-6, BUDGET, ALONE),
    "privacy.budget.then": ("freeze", BUDGET, ALONE),
    "clients.a.task_group": ("h", TWO_GROUPS, set()),
    "clients.a.rank": (4, {}, {"frozen"}),
    "clients.a.learns": ("zeroth-order", {}, UNSPLIT),
    "clients.a.split_layer": (1, {}, set()),
    "clients.a.device": ("phone-2gib", {}, set()),
    "clients.a.checkpointing": (True, {}, {"frozen"}),
    "clients.a.dtype": ("bfloat16", {}, set()),
    "clients.a.embedding": ("rows", {}, set()),
    "clients.a.quantization": ("nf4", {}, set()),
    "clients.a.local_steps": (1, {}, {"centralized"}),
    "clients.a.weight": (2.0, {}, {"frozen"}),
    "clients.a.wire": ({"gradients": {"codec": "int8"}}, {}, {*UNSPLIT, "frozen"}),
    "clients.a.count": (2, {}, set()),
}
SECTIONS = {
    "aggregation": AggregationConfig,
    "training": TrainingConfig,
    "faults": FaultsConfig,
    "screen": ScreenConfig,
    "privacy.budget": BudgetConfig,
    "clients.a": ClientConfig,
}


def test_the_table_has_every_key():
    assert TABLE.keys() == {f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields}


@pytest.mark.parametrize("key", TABLE)
def test_a_key_without_an_effect_is_refused_with_what_to_do(key, make_config, toy_csv):
    value, needs, refused = TABLE[key]
    for part in reversed(key.split(".")):
        value = {part: value}
    for where, changes in WHERE.items():
        given = merged(merged(needs, changes), value)
        for group in given.get("task_groups", {}).values():
            group["data"] = {"files": toy_csv}
        said = problems_of(make_config(**given))
        assert bool(said) == (where in refused), (where, said)
        for text in said:
            assert re.search(r"\b(remove|use|set|give|only mode|has none)", text), text


def problems_of(config):
    """What is refused of a config, before weights are looked at."""
    found = [f"{'.'.join(map(str, problem.path))}: {problem.message}" for problem in cross_check(config)]
    if not found:
        hf_config, _, _ = model_config(config.model)
        try:
            check_before_shapes(config, hf_config, family_of(hf_config, config.model.family))
        except ConfigError as error:
            found = [str(error)]
    return found


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"aggregation": {"cross_group": {"temperature": 0.5}}}, "aggregation.cross_group.temperature", "set strength"),
        ({"aggregation": {"cross_group": {"graph": "laplacian"}}}, "aggregation.cross_group.graph", "set strength"),
        ({"aggregation": {"cross_group": {"strength": 0.5}}}, "aggregation.cross_group.strength", "there is one group"),
        (
            {**TWO_GROUPS, "clustering": {"by": "single"}, "aggregation": {"cross_group": {"strength": 0.5}}},
            "aggregation.cross_group.strength",
            "there is one group",
        ),
        (
            {**TWO_GROUPS, "aggregation": {"cross_group": {"strength": 1, "graph": "laplacian", "temperature": 2}}},
            "aggregation.cross_group.temperature",
            "only used with graph: softmax",
        ),
        ({"aggregation": {"optimizer": {"momentum": 0.9}}}, "aggregation.optimizer.momentum", "set name to one"),
        (
            {"aggregation": {"optimizer": {"name": "adagrad", "lr": 0.1, "rank": 8}}},
            "aggregation.optimizer.rank",
            "with a momentum above 0",
        ),
        (
            {"aggregation": {"method": "ffa", "optimizer": {"name": "momentum", "rank": 8}}},
            "aggregation.optimizer.rank",
            "is of B with ffa, and is kept whole",
        ),
        ({"training": {"client_optimizer": {"momentum": 0.9}}}, "training.client_optimizer.momentum", "name: sgd"),
        (
            {"training": {"server_optimizer": {"name": "sgd", "betas": [0.8, 0.9]}}},
            "training.server_optimizer.betas",
            "name: adamw",
        ),
        ({"training": {"drift": {"mu": 0.1}}}, "training.drift.mu", "set name: fedprox"),
    ],
)
def test_keys_that_others_leave_without_an_effect(changes, key, says, make_config, toy_csv):
    given = merged({}, changes)
    for group in given.get("task_groups", {}).values():
        group["data"] = {"files": toy_csv}
    (said,) = problems_of(make_config(**given))
    assert said.startswith(f"{key}: ") and says in said
