"""How clients learn against the rest of a config: what contradicts it is refused with the key and what to do."""

import re

import pytest
import yaml

from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError

BASE = {
    "name": "toy",
    "model": {"name": "minilm"},
    "task_groups": {"g": {"task": "sequence-classification", "data": {"corpus": "sms-spam"}}},
}
NOISE = {"clip": 1.0, "noise_multiplier": 1.0}
FROZEN = [
    ({"rank": 4}, {}, "a client that learns: frozen has no adapter"),
    ({"rank": {0: 4}}, {}, "a client that learns: frozen has no adapter"),
    ({"checkpointing": True}, {}, "frozen has no backward, which checkpointing is for"),
    ({}, {"mode": "federated"}, "frozen leaves the backward to the server of a split, and mode is federated"),
    ({}, {"training": {"labels": "client"}}, "frozen trains nothing on the client"),
    ({}, {"clustering": {"by": "fingerprints"}}, "frozen gives nothing to be put into clusters"),
    ({}, {"aggregation": {"cross_group": {"strength": 0.5}}}, "frozen has no adapter that could be mixed"),
    ({}, {"privacy": {"activations": NOISE}}, "privacy.activations acts on every step"),
    ({}, {"privacy": {"updates": NOISE}}, "privacy.updates acts on every step"),
    ({}, {"privacy": {"nopeek": {"weight": 0.1}}}, "privacy.nopeek acts on every step"),
    ({}, {"privacy": {"mask_gradients": True}}, "privacy.mask_gradients acts on every step"),
]
ZEROTH = [
    ({}, {"mode": "local-only"}, "zeroth-order leaves the backward to the server of a split, and mode is local-only"),
    ({"checkpointing": True}, {}, "zeroth-order has no backward, which checkpointing is for"),
    ({}, {"training": {"labels": "client"}}, "zeroth-order has no backward, which a head on the client"),
    ({"dtype": "bfloat16"}, {}, "differences of activations that bfloat16 rounds away"),
    ({}, {"training": {"autocast": "bfloat16"}}, "differences of activations that bfloat16 rounds away"),
    ({}, {"clustering": {"by": "fingerprints"}}, "no gradient that clustering.by: fingerprints could sketch"),
    ({"rank": "auto"}, {}, "no gradient that rank: auto could go by"),
    ({}, {"privacy": {"activations": NOISE}}, "privacy.activations changes that"),
    ({}, {"privacy": {"examples": NOISE}}, "privacy.examples changes that"),
]
AUXILIARY = [
    ({}, {"mode": "federated"}, "auxiliary leaves the blocks above to the server of a split, and mode is federated"),
    ({}, {"training": {"labels": "client"}}, "auxiliary trains the server by labels that go up"),
    ({}, {"training": {"drift": {"name": "scaffold"}}}, "auxiliary has a loss of its own, whose gradients"),
    ({}, {"clustering": {"by": "oracle"}}, "auxiliary has a head that is merged by task group"),
    ({}, {"privacy": {"examples": NOISE}}, "for which privacy.examples is not defined"),
    ({}, {"privacy": {"updates": NOISE}}, "for which privacy.updates is not defined"),
    ({}, {"privacy": {"mask_gradients": True}}, "for which privacy.mask_gradients is not defined"),
]
CASES = [("frozen", *case) for case in FROZEN] + [("auxiliary", *case) for case in AUXILIARY]
CASES += [("zeroth-order", *case) for case in ZEROTH]


def load(tmp_path, client, **changes):
    path = tmp_path / "toy.yaml"
    config = {**BASE, "clients": {"a": {"task_group": "g", **client}}, **changes}
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return load_config(path).config


@pytest.mark.parametrize(("learns", "client", "changes", "says"), CASES)
def test_contradictions(tmp_path, learns, client, changes, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, {"learns": learns, **client}, **changes)
    assert says in str(error.value) and "clients.a." in str(error.value)
    assert re.search(r"; (use|set|remove) ", str(error.value)), "says what to do"


def test_keys_of_a_kind_need_a_client_of_it(tmp_path):
    seldom = {"training": {"auxiliary": {"every": 2}}}
    assert load(tmp_path, {"learns": "auxiliary"}, **seldom).training.auxiliary.every == 2
    with pytest.raises(ConfigError, match=r"training\.auxiliary: no client learns: auxiliary"):
        load(tmp_path, {}, **seldom)
    estimates = {"training": {"zeroth_order": {"probes": 2}}}
    assert load(tmp_path, {"learns": "zeroth-order"}, **estimates).training.zeroth_order.probes == 2
    with pytest.raises(ConfigError, match=r"training\.zeroth_order: no client learns: zeroth-order"):
        load(tmp_path, {}, **estimates)


@pytest.mark.parametrize(
    ("learns", "training", "says"),
    [
        (
            "auxiliary",
            {"auxiliary": {"every": 5}, "local_steps": 4},
            r"auxiliary\.every: .*at most 4, .* got 5.*; set 4 ",
        ),
        (
            "zeroth-order",
            {"zeroth_order": {"smoothing": 1e-12}},
            r"smoothing: .*at least 1e-06, got 1e-12.*; set 1e-4 to",
        ),
    ],
)
def test_values_that_do_what_others_do(tmp_path, learns, training, says):
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, {"learns": learns}, training=training)


def test_rank_0_is_for_clients_without_an_adapter(tmp_path):
    for own in ({}, {"rank": 0}):
        assert load(tmp_path, {"learns": "frozen", **own}).expanded_clients()[0].rank == 0
    with pytest.raises(ConfigError, match="must be at least 1, as only a client that learns: frozen has none; set 1"):
        load(tmp_path, {"rank": 0})
