"""``atlas train`` with a validation part: what a run says of its best round and an early end, and going on from it."""

import json
from pathlib import Path

import pytest
from support.toy_runs import kinds

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError
from atlas_cli.inference.adapter_folders import adapter_folder, choose_owner
from atlas_cli.runs.directory import RunDirectory

# what no accuracy can be better by: training ends after the first evaluation that follows round 0
STOPS = {"patience": 1, "min_delta": 2.0}
SHORT = {"rounds": 3, "local_steps": 1, "batch_size": 2}


def run_of(path):
    return RunDirectory(Path(path))


def manifest_of(path):
    return run_of(path).read_json("manifest.json")


def test_an_early_end_is_said_and_not_gone_on_from_unasked(config_file, capfd):
    file = config_file(holdout={"validation": 10}, training={**SHORT, "early_stopping": STOPS})
    assert main(["train", str(file), "--json"]) == 0
    out, err = capfd.readouterr()
    shown = json.loads(out)
    path, why = shown["run"], "g has not improved on its validation part for 1 evaluation (training.early_stopping)"
    assert f"training ends early, after round 1 of 3: {why}" in err
    manifest = manifest_of(path)
    assert manifest["status"] == "finished" and manifest["adapters_of_round"] == 1
    assert manifest["early_stop"] == {"after_round": 1, "of": 3, "why": why}
    (group,), best = shown["task_groups"], manifest["best"]["g"]
    assert (group["best_round"], group["chosen_on"], group["validation"]) == (best["round"], "validation", 10)
    assert (group["best"], group["best_validation"]) == (best["test"], best["validation"])
    assert best["adapters"] == ["best_adapters/groups/g"]
    metrics = run_of(path).read_lines("metrics.jsonl")
    assert [m["round"] for m in metrics] == [0, 1] and kinds(run_of(path))
    assert manifest["privacy"]["epsilon"]["g"] == metrics[-1]["epsilon"]
    assert manifest["data"]["g"]["rows"]["validation"]["used"] == manifest["data"]["g"]["validation"] == 10

    run, config = run_of(path), load_config(Path(path) / "config.yaml").config
    run.write_json("manifest.json", {**manifest, "best": {"g": {**best, "round": 7}}})  # a round without a checkpoint
    with adapter_folder(run, config, choose_owner(config), 7) as found:
        assert found == (run.path / "best_adapters" / "groups" / "g", 7)
    with pytest.raises(ConfigError, match=r"round 7 of .* is not kept"):
        adapter_folder(run, config, choose_owner(config, client="a"), 7).__enter__()

    assert main(["train", "--resume", path]) == 2
    assert (
        f"training.early_stopping: training ended after round 1: {why}; to go on, set training.early_stopping.patience"
        " above 1, or training.early_stopping=null"
    ) in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_it_goes_on_without_the_rule(config_file, tmp_path):
    file = config_file(holdout={"validation": 10}, training={**SHORT, "early_stopping": STOPS})
    assert main(["train", str(file)]) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert manifest_of(path)["early_stop"]["after_round"] == 1
    assert main(["train", "--resume", str(path), "training.early_stopping=null"]) == 0
    manifest = manifest_of(path)
    assert manifest["adapters_of_round"] == 3 and "early_stop" not in manifest
    for folder in manifest["best"]["g"]["adapters"]:
        assert (run_of(path).path / folder / "adapter_model.safetensors").is_file()


def test_without_a_validation_part_it_is_refused_and_the_test_part_keeps_no_adapters(config_file, capfd):
    file = config_file(training=SHORT)
    assert main(["train", str(file), "training.early_stopping.patience=2"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert (
        "training.early_stopping: goes by validation parts, and task group g has none; set holdout.validation (0.1, or"
        " a number of rows), or validation_files or validation_split of its data"
    ) in said


@pytest.mark.slow
def test_what_is_chosen_on_the_test_part_keeps_no_adapters(make_toy_run):
    run = make_toy_run()
    best = run.read_json("manifest.json")["best"]["g"]
    values = [line["test"]["accuracy"] for line in run.read_lines("metrics.jsonl")]
    assert (best["test"], best["round"]) == (max(values), values.index(max(values)))
    assert (best["chosen_on"], best["validation"], best["adapters"]) == ("test", None, [])
    assert not (run.path / "best_adapters").exists()
