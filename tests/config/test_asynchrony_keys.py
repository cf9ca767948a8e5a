"""What cannot go with training.asynchrony is refused, with the key and what to do."""

import pytest
from support.federations import merged

from atlas_cli.config.checks import cross_check
from atlas_cli.config.schema.experiment import ExperimentConfig

BASE = {
    "name": "toy",
    "model": {"name": "minilm"},
    "task_groups": {"g": {"task": "sequence-classification", "data": {"corpus": "sms-spam"}}},
    "clients": {"a": {"task_group": "g", "device": "phone-2gib", "count": 3}},
    "training": {"server_update": "sequential", "asynchrony": {"buffer": 2}},
}
OTHER = {"task_groups": {"h": BASE["task_groups"]["g"]}, "clients": {"b": {"task_group": "h", "device": "phone-2gib"}}}
OTHERS = ("federated", "local-only", "centralized")


def problems(changes):
    return {
        ".".join(map(str, p.path)): p.message
        for p in cross_check(ExperimentConfig.model_validate(merged(BASE, changes)))
    }


def test_what_can():
    assert problems({}) == {}
    assert problems({"training": {"asynchrony": {"buffer": 3}}, "wire": {"activations": {"codec": "int8"}}}) == {}
    assert problems({"training": {"server_update": "per-client", "cohort": 0.7}, **OTHER}) == {}


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"training": {"asynchrony": {"buffer": 4}}}, "training.asynchrony.buffer", "at most 3, the clients"),
        ({"training": {"server_update": "pooled"}}, "training.server_update", "use per-client or sequential"),
        ({"training": {"min_clients": 3}}, "training.min_clients", "set it to 2 or less, or a larger"),
        ({**OTHER, "training": {"min_clients": 2}}, "training.min_clients", "only 1 update, and then would not"),
        ({"training": {"cohort": 0.3}}, "training.asynchrony.buffer", "at most 1, the clients of a group"),
        ({"training": {"deadline": "60 s"}}, "training.deadline", "remove it"),
        ({"training": {"drift": {"name": "fedprox"}}}, "training.drift.name", "neither a checkpoint nor"),
        ({"training": {"drift": {"name": "scaffold"}}}, "training.drift.name", "began together"),
        ({"screen": {"max_norm_ratio": 3.0}}, "screen", "different versions"),
        ({"privacy": {"activations": {"noise_multiplier": 1.0, "clip": 1.0}}}, "privacy", "accounted"),
        ({"clustering": {"k": 2}}, "clustering", "same version"),
        ({"audit": {}}, "audit", "cohort"),
        ({"clients": {"a": {"learns": "frozen"}}}, "clients.a.learns", "not on the clock"),
        ({"engine": {"offload": "1 GiB"}}, "engine.offload", "not idle"),
        ({"clients": {"a": {"device": None}}}, "training.asynchrony", "a-1 has none; give it one"),
        *(({"mode": mode}, "training.asynchrony", "remove it, or use mode: split-federated") for mode in OTHERS),
        ({**OTHER, "aggregation": {"cross_group": {"strength": 0.5}}}, "aggregation.cross_group", "different times"),
    ],
)  # fmt: skip
def test_what_cannot(changes, key, says):
    assert says in problems(changes)[key]
