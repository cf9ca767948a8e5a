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


def problems(changes):
    return {
        ".".join(map(str, p.path)): p.message
        for p in cross_check(ExperimentConfig.model_validate(merged(BASE, changes)))
    }


def test_what_can():
    assert problems({}) == {}
    assert problems({"training": {"asynchrony": {"buffer": 3}}, "privacy": {"compress": "int8"}}) == {}


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"training": {"asynchrony": {"buffer": 4}}}, "training.asynchrony.buffer", "at most 3, the number of clients"),
        ({"training": {"server_update": "pooled"}}, "training.server_update", "use sequential"),
        ({"training": {"min_clients": 3}}, "training.min_clients", "a round has 2 updates"),
        ({"training": {"cohort": 0.5}}, "training.cohort", "all clients that are idle start"),
        ({"training": {"deadline": "60 s"}}, "training.deadline", "remove it"),
        ({"training": {"on_nonfinite": "drop-client"}}, "training.on_nonfinite", "no state"),
        ({"faults": {"crash_at": {"a-1": {"round": 1}}}}, "faults.crash_at", "no state"),
        ({"training": {"drift": {"name": "fedprox"}}}, "training.drift.name", "began together"),
        ({"screen": {"max_norm_ratio": 3.0}}, "screen", "different versions"),
        ({"privacy": {"activations": {"noise_multiplier": 1.0, "clip": 1.0}}}, "privacy", "accounted"),
        ({"clustering": {"k": 2}}, "clustering", "same version"),
        ({"audit": {}}, "audit", "cohort"),
        ({"engine": {"name": "ray"}}, "engine.name", "one process"),
        ({"engine": {"offload": "1 GiB"}}, "engine.offload", "not idle"),
        ({"clients": {"a": {"device": None}}}, "training.asynchrony", "a-1 has none"),
        ({"mode": "federated"}, "training.asynchrony", "virtual clock"),
        (OTHER, "training.asynchrony", "one task group"),
    ],
)  # fmt: skip
def test_what_cannot(changes, key, says):
    assert says in problems(changes)[key]
