"""Mechanisms that contradict each other or the rest of a config are errors that name the key and what to do."""

import pytest
import yaml

from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.runs.resumable import require_same

NOISE = {"clip": 1.0, "noise_multiplier": 1.0}
TARGET = {"clip": 1.0, "epsilon": 8.0}
UNIFORM = {"weights": "uniform"}
SANTEXT = {"santext": {"epsilon": 15}}
LABELS = {"labels": {"epsilon": 2}}
EXAMPLES = {"privacy": {"examples": NOISE}, "aggregation": UNIFORM, "training": {"labels": "client"}}
DEVICES = {"clients": {name: {"device": "phone-2gib"} for name in "ab"}}


def nested(base, changes):
    both = {k: nested(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **changes, **both}


def document(**changes):
    base = {
        "name": "x",
        "model": {"name": "minilm"},
        "task_groups": {"g": {"task": "sequence-classification", "data": {"files": "x.csv"}}},
        "clients": {"a": {"task_group": "g"}, "b": {"task_group": "g"}},
    }
    return nested(base, changes)


def loaded(tmp_path, **changes):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(document(**changes)), encoding="utf-8")
    return load_config(path).config


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"privacy": {"updates": {"noise_multiplier": 1.0}}}, "privacy.updates", "noise without clipping"),
        ({"privacy": {"updates": {"clip": 1.0}}}, "privacy.updates", "give one of noise_multiplier and epsilon"),
        ({"privacy": {"updates": {**NOISE, "epsilon": 1.0}}}, "privacy.updates", "give one of"),
        ({"privacy": {"updates": {"clip": 1.0, "epsilon": 0.0}}}, "privacy.updates.epsilon", "greater than 0"),
        ({"privacy": {"updates": {"clip": 1.0, "epsilon": -3}}}, "privacy.updates.epsilon", "greater than 0"),
        ({"privacy": {"delta": 1.0}}, "privacy.delta", "less than 1"),
        ({"privacy": {"delta": 0.0}}, "privacy.delta", "greater than 0"),
        ({"privacy": {"labels": {"epsilon": 2e3}}}, "privacy.labels.epsilon", "at most 1000"),
        ({"privacy": {"updates": NOISE}}, "aggregation.weights", "use weights: uniform"),
        ({"privacy": {"budget": {"epsilon": 8}}}, "privacy.budget", "no mechanism with noise is on"),
        ({"privacy": {**LABELS, "budget": {"epsilon": 0}}}, "privacy.budget.epsilon", "greater than 0"),
        ({"privacy": {**LABELS, "budget": {"epsilon": {}}}}, "privacy.budget", "names no channel"),
        (
            {"privacy": {**LABELS, "budget": {"epsilon": {"updates": 8}}}},
            "privacy.budget.epsilon.updates",
            "no mechanism bounds this channel",
        ),
        (
            {
                "privacy": {**LABELS, "budget": {"epsilon": 8, "then": "freeze"}},
                "clustering": {"by": "fingerprints", "k": 2},
            },
            "privacy.budget.then",
            "use stop",
        ),
        (
            {"privacy": {"updates": NOISE}, "aggregation": {"method": "hetlora", **UNIFORM}},
            "aggregation.method",
            "use ffa",
        ),
        ({"privacy": {"updates": NOISE}, "aggregation": {"method": "median", **UNIFORM}}, "aggregation.method", "ffa"),
        ({"privacy": {"updates": NOISE}, "aggregation": {"method": "none", **UNIFORM}}, "privacy.updates", "no client"),
        ({"privacy": {"updates": NOISE}, "mode": "local-only", "aggregation": UNIFORM}, "privacy.updates", "no client"),
        (
            {"privacy": {"updates": NOISE}, "aggregation": UNIFORM, "screen": {"max_norm_ratio": 3.0}},
            "screen.max_norm_ratio",
            "without noise",
        ),
        (
            {"privacy": {"updates": NOISE}, "aggregation": UNIFORM, "clients": {"a": {"weight": 2.0}}},
            "clients.a.weight",
            "equal weights",
        ),
        (
            {"privacy": {"updates": NOISE}, "aggregation": UNIFORM, "clustering": {"k": 2}},
            "clustering.by",
            "where: client",
        ),
        (
            {"privacy": {"updates": NOISE}, "aggregation": UNIFORM, "clients": {"a": {"split_layer": 2}}},
            "privacy.updates.where",
            "split layers",
        ),
        (
            {
                "privacy": {"updates": {**NOISE, "where": "client"}},
                "aggregation": {"method": "hetlora", "options": {"prune": 0.5}, **UNIFORM},
            },
            "aggregation.options.prune",
            "without noise",
        ),
        (
            {"privacy": {"updates": NOISE}, "aggregation": UNIFORM, "clients": {"a": {"rank": "auto"}}},
            "allocation.importance",
            "past the noise",
        ),
        (
            {"privacy": {"activations": NOISE}, "clients": {"a": {"rank": "auto"}}},
            "allocation.importance",
            "past the noise on activations",
        ),
        (
            nested(EXAMPLES, {**DEVICES, "training": {"deadline": "5 s"}}),
            "training.deadline",
            "which examples were drawn",
        ),
        (nested(EXAMPLES, {"training": {"on_nonfinite": "drop-client"}}), "training.on_nonfinite", "use stop"),
        (nested(EXAMPLES, {"privacy": {"delta": 1e-12}}), "privacy.delta", "give 1e-10 or more"),
        (nested(EXAMPLES, {"privacy": {"updates": NOISE}}), "privacy.updates", "give one of the two"),
        (nested(EXAMPLES, {"training": {"labels": "server"}}), "training.labels", "labels: client"),
        (nested(EXAMPLES, {"server": {"rank": 2}}), "server.rank", "rank: 0"),
        (nested(EXAMPLES, {"lora": {"dropout": 0.1}}), "lora.dropout", "set it to 0"),
        (nested(EXAMPLES, {"clients": {"a": {"checkpointing": True}}}), "clients.a.checkpointing", "remove it"),
        (nested(EXAMPLES, {"privacy": {"nopeek": {"weight": 1.0}}}), "privacy.nopeek", "couples"),
        (nested(EXAMPLES, {"privacy": {"mid": {}}}), "privacy.mid", "not computed"),
        ({"privacy": {"mid": {}}}, "privacy.mid", "set labels: client"),
        ({"privacy": {"mid": {}}, "mode": "federated"}, "privacy.mid", "mode is federated"),
        ({"privacy": {"denoise": {}}, "training": {"labels": "client"}}, "privacy.denoise", "no noise to take out"),
        ({"privacy": {"activations": NOISE, "denoise": {}}}, "privacy.denoise", "set labels: client"),
        (nested(EXAMPLES, {"privacy": {"activations": NOISE, "denoise": {}}}), "privacy.denoise", "not computed"),
        ({"privacy": {"mid": {"weight": -1}}, "training": {"labels": "client"}}, "privacy.mid.weight", "at least 0"),
        ({"privacy": {"mid": {"rank": 0}}, "training": {"labels": "client"}}, "privacy.mid.rank", "at least 1"),
        (
            {"privacy": {"mid": {}}, "training": {"labels": "client"}, "clustering": {"k": 2}},
            "privacy.mid",
            "when fingerprints are taken",
        ),
        (
            {"privacy": {"mid": {}}, "training": {"labels": "client"}, "clients": {"a": {"rank": "auto"}}},
            "allocation.importance",
            "past the noise",
        ),
        ({"privacy": {"fingerprints": NOISE}}, "privacy.fingerprints", "clustering.by: fingerprints"),
        ({"privacy": {"activations": NOISE}, "mode": "federated"}, "privacy.activations", "mode is federated"),
        ({"privacy": SANTEXT, "mode": "federated"}, "privacy.santext", "mode is federated"),
        ({"privacy": {"santext": {"epsilon": -1}}}, "privacy.santext.epsilon", "at least 0"),
        ({"privacy": {"santext": {"epsilon": 1, "sensitive_share": 0.5}}}, "privacy.santext", "or none of them"),
        ({"privacy": {"custext": {"epsilon": 1, "tokens": 1}}}, "privacy.custext.tokens", "at least 2"),
        ({"privacy": {**SANTEXT, "custext": {"epsilon": 1}}}, "privacy.custext", "give one of the two"),
        ({"privacy": {**SANTEXT, "activations": NOISE}}, "privacy.santext", "bounds the same channel"),
        ({"privacy": SANTEXT, "clients": {"a": {"embedding": "rows"}}}, "clients.a.embedding", "whole table"),
        ({"privacy": {**SANTEXT, "budget": {"epsilon": 8}}}, "privacy.budget.epsilon", "before the first round"),
    ],
)
def test_contradictions(tmp_path, changes, key, says):
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, **changes)
    lines = [line for line in str(error.value).splitlines() if f"{key}:" in line]
    assert len(lines) == 1 and says in lines[0] and "x.yaml" in lines[0]


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        ({"clip": 1.0, "noise_multiplier": 1e-300}, "0 (clips only) or at least 0.001, got 1e-300"),
        ({"clip": 1.0, "noise_multiplier": 1e300}, "noise_multiplier:"),
        ({"clip": 1e300, "noise_multiplier": 1.0}, "clip:"),
        ({"clip": 1e-300, "noise_multiplier": 1.0}, "clip:"),
        ({"clip": 1.0, "epsilon": 1e-30}, "epsilon must be at least 0.001, got 1e-30"),
    ],
)
@pytest.mark.parametrize("name", ["updates", "examples", "activations", "fingerprints"])
def test_noise_that_could_not_be_drawn_or_accounted_for_is_refused(tmp_path, name, noise, says):
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, privacy={name: noise})
    lines = [line for line in str(error.value).splitlines() if f"privacy.{name}" in line]
    assert any(says in line and "x.yaml:" in line for line in lines)


def test_everything_that_fits_together(tmp_path):
    local = {"updates": {**NOISE, "where": "client"}, "labels": {"epsilon": 2.0}, "activations": TARGET}
    for changes in (
        {"privacy": {"updates": NOISE}, "aggregation": {"method": "ffa", **UNIFORM}},
        {"privacy": local, "aggregation": {"method": "median", "weights": "inverse-rank"}},
        EXAMPLES,
        {"privacy": {"fingerprints": NOISE}, "clustering": {"k": "auto"}},
    ):
        assert loaded(tmp_path, **changes).privacy.noises()


def test_rounds_of_a_target_cannot_be_added_to():
    def config(rounds, noise):
        changes = {"privacy": {"updates": noise}, "aggregation": UNIFORM, "training": {"rounds": rounds}}
        return ExperimentConfig.model_validate(document(**changes))

    require_same(config(3, NOISE).model_dump(mode="json"), config(5, NOISE))
    with pytest.raises(ConfigError, match=r"training.rounds: cannot change: privacy.updates.epsilon is for all 3"):
        require_same(config(3, TARGET).model_dump(mode="json"), config(5, TARGET))
