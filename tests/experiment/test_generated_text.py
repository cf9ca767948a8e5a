"""A run scores generated text at each evaluation, and nothing else of it changes."""

import json

import pytest
import yaml
from support.toy_runs import toy_config, write_data

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.config.schema.evaluation import GenerateConfig
from atlas_cli.data.prepare import prepare
from atlas_cli.errors import ConfigError
from atlas_cli.federation.generated_text import GeneratedText
from atlas_cli.federation.parties.generation import Decoding
from atlas_cli.inference.generation.texts import TextGeneration
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.planning.plan import make_plan
from atlas_cli.tasks._generated import text_figures, text_scores

CHANGES = {"clients": {"b": {"dtype": "bfloat16"}}}
RULE = {"max_new_tokens": 6, "metrics": ["rouge", "chrf"], "examples": 100}
FIGURES = text_figures(RULE["metrics"])
MEASURED = ("seconds", "samples_per_second")


@pytest.mark.slow
def test_generated_text_is_scored_and_no_other_figure_changes(make_toy_run):
    with_text = make_toy_run("instruction", **CHANGES, evaluation={"generate": RULE})
    without = make_toy_run("instruction", **CHANGES)
    scored, plain = (run.read_lines("metrics.jsonl") for run in (with_text, without))
    for line in scored:
        found = {name: line["test"].pop(name) for name in FIGURES}
        assert all(0 <= value <= 1 for value in found.values())
    for line in (*scored, *plain):
        for name in MEASURED:
            line.pop(name)
    assert scored == plain
    assert with_text.read_lines("clients.jsonl") == without.read_lines("clients.jsonl")
    declared = with_text.read_json("manifest.json")["data"]["g"]["metrics"]
    assert {name: declared[name] for name in FIGURES} == dict.fromkeys(FIGURES, "higher")


@pytest.mark.slow
def test_the_figures_are_those_of_the_runs_model(make_toy_run):
    run = make_toy_run("instruction", **CHANGES, evaluation={"generate": RULE})
    loaded = open_model(run.path)
    group = prepare(loaded.config, loaded.tokenizer, causal=True)["g"]
    generation = TextGeneration(loaded, Decoding(6))
    prompts = [loaded.task.prompt(row, loaded.tokenizer) for row in group.data.test]
    texts = [text.text for text in generation.texts(prompts, batch_size=3)]
    expected = text_scores(texts, [row["response"] for row in group.data.test], RULE["metrics"])
    recorded = run.read_lines("metrics.jsonl")[-1]["test"]
    assert {name: recorded[name] for name in FIGURES} == pytest.approx(expected)
    few = [GeneratedText.of(GenerateConfig(examples=5), group, loaded.tokenizer, seed).prompts for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2] and len(few[0]) == 5 and all(prompt in prompts for prompt in few[0])


@pytest.mark.parametrize(
    ("task", "rule", "said"),
    [
        ("causal-lm", {}, "evaluation.generate: no task group has texts that should be generated"),
        ("instruction", {"max_new_tokens": 33}, r"exceed the model's 64 positions; set it to 32 or less"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_anything_is_loaded(model_folder, tmp_path, task, rule, said):
    write_data(tmp_path)
    config = toy_config(model_folder, tmp_path, tmp_path, task, evaluation={"generate": {**RULE, **rule}})
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        make_plan(load_config(tmp_path / "toy.yaml").config)


@pytest.mark.slow
def test_a_resumed_run_has_the_figures_of_one_that_never_stopped(make_toy_run, model_folder, tmp_path):
    whole = make_toy_run("instruction", **CHANGES, evaluation={"generate": RULE})
    write_data(tmp_path)
    config = toy_config(
        model_folder, tmp_path, tmp_path / "runs", "instruction", **CHANGES, evaluation={"generate": RULE}
    )
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["train", str(tmp_path / "toy.yaml"), "training.rounds=1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert main(["train", "--resume", str(run), "training.rounds=2"]) == 0
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["test"] for line in lines] == [line["test"] for line in whole.read_lines("metrics.jsonl")]
