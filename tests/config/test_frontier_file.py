"""The file of ``atlas audit --frontier``: what it asks for, and what is refused before anything is trained."""

import pytest
import yaml
from support.toy_runs import toy_config

from atlas_cli.config.frontier import load_frontier
from atlas_cli.errors import ConfigError

NOISE = {"privacy.activations": {"clip": 1.0, "noise_multiplier": 0.5}}
MORE = {"privacy.activations": {"clip": 1.0, "noise_multiplier": 2}}
GOOD = {
    "config": "toy.yaml",
    "changes": {"training.rounds": 3},
    "seeds": [4, 5],
    "attacks": ["nearest-embedding"],
    "defences": {"noise": {"little": NOISE, "much": MORE}},
    "controls": {"codec": {1: {"wire.activations.codec": "int8"}}},
}


@pytest.fixture
def load(tmp_path):
    (tmp_path / "toy.yaml").write_text(
        yaml.safe_dump(toy_config(lambda name: name, tmp_path, tmp_path)), encoding="utf-8"
    )

    def make(overrides=(), **changes):
        file = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
        (tmp_path / "frontier.yaml").write_text(
            yaml.safe_dump(file, sort_keys=False, default_flow_style=False), encoding="utf-8"
        )
        return load_frontier(tmp_path / "frontier.yaml", overrides)

    return make


def test_every_setting_at_every_seed_the_undefended_first(load):
    found = load()
    assert [setting.label for setting in found.settings] == [
        "no defence",
        "noise, little",
        "noise, much",
        "codec, 1",
    ]
    assert [setting.control for setting in found.settings] == [False, False, False, True]
    assert [(plan.setting.label, plan.seed) for plan in found.planned] == [
        (setting.label, seed) for seed in (4, 5) for setting in found.settings
    ]
    plain, little, much, codec = (plan.loaded.config for plan in found.planned[:4])
    assert plain.privacy.activations is None and codec.wire.activations.codec == "int8"
    assert (little.privacy.activations.noise_multiplier, much.privacy.activations.noise_multiplier) == (0.5, 2)
    assert all(plan.loaded.config.audit.record.rounds == [3] for plan in found.planned)  # the last of the three
    assert (found.examples, found.seeds, found.attacks) == (256, [4, 5], ["nearest-embedding"])


def test_the_config_is_one_beside_the_file_or_an_example(load, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "toy.yaml").write_text("name: other", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    assert load().config == tmp_path / "toy.yaml"
    assert load(config="offline", seeds=[0], controls=...).config.name == "offline.yaml"


def test_overrides_have_the_last_word(load):
    found = load(["training.rounds=1"])
    assert {plan.loaded.config.training.rounds for plan in found.planned} == {1}
    assert {tuple(plan.loaded.config.audit.record.rounds) for plan in found.planned} == {(1,)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": [0]}, r"frontier.yaml:\d+: seed: is not a known key; did you mean seeds\?"),
        ({"attacks": ...}, r"frontier.yaml: attacks: is missing"),
        ({"config": "gone.yaml"}, r"frontier.yaml:1: config: there is no .*gone.yaml; name a config beside this file"),
        ({"config": 3}, r"frontier.yaml:1: config: expected the name of a config, got 3"),
        ({"seeds": []}, r"frontier.yaml:4: seeds: expected a list with an entry or more, e.g. \[0, 1, 2\], got \[\]"),
        ({"seeds": [0, True]}, r"frontier.yaml:6: seeds.1: expected a whole number from 0 on, got True"),
        ({"seeds": [0, 1, 0]}, r"frontier.yaml:7: seeds.2: 0 is given twice; leave one out"),
        ({"attacks": ["nearest-embeding"]}, r"attacks.0: .*did you mean nearest-embedding"),
        ({"attacks": ["lira", "lira"]}, r"attacks.1: lira is given twice"),
        ({"examples": 3}, r"examples: expected a whole number from 20 on, got 3"),
        ({"defences": {}}, r"defences: expected a mapping of names with their strengths, got {}"),
        (
            {"defences": {"noise": {"15": {"seed": 1}, 15: {"seed": 2}}}},
            r"frontier.yaml:\d+: defences.noise.15: 15 is given twice, as a number and as a text",
        ),
        ({"defences": {"noise": 3}}, r"defences.noise: expected a mapping of strengths with what they change, got 3"),
        ({"defences": {"noise": {"much": None}}}, r"defences.noise.much: expected a mapping of keys of the config"),
        (
            {"defences": {"int8": {"all": {"wire.activations.codec": "int8"}}}},
            r"frontier.yaml:11: defences.int8.all: changes wire alone, and a codec is no defence; put it under",
        ),
        ({"controls": {"noise": {"much": NOISE}}}, r"controls.noise.much: changes privacy, so it is no control"),
        (
            {"defences": {"noise": {"little": NOISE, "much": NOISE}}},
            r"defences.noise.much: is the same config as noise, little; change it, or leave it out",
        ),
        (
            {"defences": {"noise": {"much": {"privacy.activations": {"clip": 1.0, "multiplier": 1}}}}},
            r"frontier.yaml:12: privacy.activations.multiplier is not a known key",
        ),
        ({"changes": {"training.rouns": 2}}, r"frontier.yaml:3: training.rouns is not a known key; did you mean"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(load, changes, says):
    with pytest.raises(ConfigError, match=says):
        load(**changes)


def test_a_wrong_override_is_one_of_the_command_line(load):
    with pytest.raises(ConfigError, match=r"^command line: training.rouns is not a known key"):
        load(["training.rouns=2"])
