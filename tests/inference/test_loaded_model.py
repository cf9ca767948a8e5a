"""A model that is read again from a run gives the figures that the run recorded, from adapters and from checkpoints."""

import json
import shutil

import pytest
from support.trained_runs import recorded, scores

from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.runs.resumable import config_of


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("sequence-classification", {"aggregation": {"method": "flora"}}),  # changes the base
        ("instruction", {"clients": {"b": {"dtype": "bfloat16"}}}),
        ("question-answering", {"training": {"labels": "client"}}),  # a head at the clients
    ],
)
def test_the_last_round_from_adapters_and_from_its_checkpoint(make_toy_run, task, changes):
    run = make_toy_run(task, **changes)
    loaded = open_model(run.path)
    assert (loaded.round, loaded.owner.name, loaded.cut) == (2, "g", 2)
    assert scores(loaded) == pytest.approx(recorded(run, 2), rel=1e-5, abs=1e-6)
    before = open_model(run.path, round_number=1)  # of which there is a checkpoint alone
    assert before.round == 1
    assert scores(before) == pytest.approx(recorded(run, 1), rel=1e-5, abs=1e-6)
    assert scores(before)["loss"] != scores(loaded)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated", "centralized"])
def test_a_clients_own_model(make_toy_run, mode):
    run = make_toy_run(mode=mode, aggregation={"method": "none"}, clients={"b": {"dtype": "bfloat16"}})
    names = ["g-pooled"] if mode == "centralized" else ["a", "b-1", "b-2"]
    each = [scores(open_model(run.path, client=name))["loss"] for name in names]
    assert sum(each) / len(each) == pytest.approx(recorded(run, 2)["loss"], rel=1e-5)
    if mode == "centralized":
        assert open_model(run.path).owner.name == names[0]  # which has all data of the group
        return
    with pytest.raises(
        ResourceError, match=f"clients of task group g share no adapter; give --client with one of {names[0]}"
    ):
        open_model(run.path)


def test_a_run_that_was_killed_is_read_from_its_newest_checkpoint(make_toy_run, tmp_path):
    run = make_toy_run(aggregation={"method": "flora"})
    killed = tmp_path / "killed"
    shutil.copytree(run.path, killed)
    shutil.rmtree(killed / "adapters")
    manifest = run.read_json("manifest.json")
    with pytest.raises(ResourceError, match="adapters is missing; restore it, or name an earlier round"):
        open_model(killed)
    del manifest["adapters_of_round"]
    type(run)(killed).write_json("manifest.json", manifest)
    loaded = open_model(killed)
    assert loaded.round == 2
    assert scores(loaded) == pytest.approx(recorded(run, 2), rel=1e-5)


def test_a_run_of_a_version_without_a_key_has_its_default(make_toy_run, tmp_path):
    run = make_toy_run(aggregation={"method": "flora"})
    older = tmp_path / "older"
    shutil.copytree(run.path, older)
    manifest = run.read_json("manifest.json")
    manifest["config"]["holdout"] = {}
    type(run)(older).write_json("manifest.json", manifest)
    assert config_of(type(run)(older)) == config_of(run)
    manifest["config"]["training"]["rounds"] = 3  # not what config.yaml says
    type(run)(older).write_json("manifest.json", manifest)
    with pytest.raises(ResourceError, match=r"training\.rounds is 2, and the run was made with 3"):
        config_of(type(run)(older))


def test_what_cannot_be_had_is_refused_by_name(make_toy_run, tmp_path):
    run = make_toy_run(aggregation={"method": "flora"})
    for wanted, said in (
        ({"group": "h"}, "no task group h"),
        ({"client": "b-3"}, "no client b-3; did you mean b-"),
        ({"group": "g", "client": "a"}, "give one of the two"),
        ({"round_number": 7}, r"round 7 of .* is not kept; kept are 1, 2"),
        ({"device": "cuda:9"}, "device"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_model(run.path, **wanted)
    changed = tmp_path / "changed"
    shutil.copytree(run.path, changed)
    config = load_config(changed / "config.yaml").config
    other = tmp_path / "other"
    shutil.copytree(config.model.name, other)
    for file in ("manifest.json", "config.yaml"):
        text = (changed / file).read_text(encoding="utf-8").replace(str(config.model.name), str(other))
        (changed / file).write_text(text, encoding="utf-8")
    manifest = json.loads((changed / "manifest.json").read_text(encoding="utf-8"))
    del manifest["sha256"]
    type(run)(changed).write_json("manifest.json", manifest)
    tokens = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokens["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
    with pytest.raises(ResourceError, match=r"the tokenizer is not what it was \(changed: .*tokenizer.json\)"):
        open_model(changed)
