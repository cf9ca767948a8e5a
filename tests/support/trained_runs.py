"""Finished tiny runs, each trained once for all tests that only read it."""

import json

import pytest
import yaml

from atlas_cli.data.prepare import prepare
from support.toy_runs import toy_config, train, write_data


@pytest.fixture(scope="session")
def make_toy_run(model_folder, tmp_path_factory):
    """``make_toy_run(task, **changes)``: a finished run of two rounds, made once for each config."""
    made = {}

    def make(task="sequence-classification", **changes):
        key = json.dumps([task, changes], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("run")
            write_data(folder)
            config = toy_config(model_folder, folder, folder / "runs", task, **changes)
            (folder / "toy.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            made[key] = train(folder / "toy.yaml")
        return made[key]

    return make


def scores(loaded):
    """The metrics of a loaded model on its group's test part."""
    data = prepare(loaded.config, loaded.tokenizer, loaded.base.family.causal)[loaded.owner.group]
    return loaded.evaluator()(loaded.task, data.test, loaded.model)


def recorded(run, number, group="g"):
    lines = run.read_lines("metrics.jsonl")
    return next(line["test"] for line in lines if (line["round"], line["task_group"]) == (number, group))
