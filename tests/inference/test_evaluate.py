"""``atlas evaluate``: the run's own figures again, split and merged; intervals and figures of examples; other files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from support.made_up_run import build

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.inference.input_rows import InputRow
from atlas_cli.inference.loaded_model import open_model
from atlas_cli.inference.merged import MergedEvaluator
from atlas_cli.inference.predictions import CLASH, Predictor, columns_of
from atlas_cli.inference.recorded import compare, recorded
from atlas_cli.inference.scored_parts import part_of_file, part_of_run
from atlas_cli.inference.scoring import score
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.outcomes import read_outcomes
from atlas_cli.runs.resumable import config_of

PAGE = (Path(__file__).parents[2] / "docs/reference/json-output.md").read_text(encoding="utf-8")
TEXTS = {"aggregation": {"method": "flora"}}
NOISE = {"privacy": {"activations": {"clip": 8.0, "noise_multiplier": 0.2}}}


@pytest.fixture
def copied(tmp_path, capsys):
    """A copy of a run that is shared, to write to."""

    def copy(run):
        shutil.copytree(run.path, tmp_path / "run")
        capsys.readouterr()  # of its training
        return RunDirectory(tmp_path / "run")

    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("sequence-classification", TEXTS),
        ("instruction", {"clients": {"b": {"dtype": "bfloat16"}}}),
        ("question-answering", {"training": {"labels": "client"}}),
        ("token-classification", {}),
        ("regression", {}),
    ],
)
def test_the_runs_own_figures_split_and_merged_and_by_example(make_toy_run, task, changes):
    run = make_toy_run(task, **changes)
    loaded = open_model(run.path)
    part = part_of_run(loaded)
    found = score(loaded, part)
    outcomes = found.outcomes
    source, known = recorded(run, loaded.owner, "test", 2)
    assert source == "round 2 in metrics.jsonl" and known.keys() == outcomes.figures.keys()
    assert compare(outcomes.figures, known, source).equal
    merged = score(loaded, part, MergedEvaluator(loaded)).outcomes
    assert compare(merged.figures, outcomes.figures, "the split").equal
    assert outcomes.rows_sha256 == run.read_json("manifest.json")["data"]["g"]["test_sha256"]
    assert outcomes.examples == run.read_json("manifest.json")["data"]["g"]["test"]
    every = np.arange(outcomes.examples)
    for name, value in outcomes.figures.items():  # each can be resampled
        assert outcomes.figure(name)(every) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert found.bytes_up > 0


def test_figures_of_classes_are_scikit_learns(make_toy_run):
    loaded = open_model(make_toy_run(**TEXTS).path)
    found = score(loaded, part_of_run(loaded))
    outcomes, classes = found.outcomes, loaded.task.classes
    labels, said = outcomes.labels, outcomes.predicted
    assert outcomes.right_of("accuracy") == [a == b for a, b in zip(labels, said, strict=True)]
    assert outcomes.figures["accuracy"] == pytest.approx(accuracy_score(labels, said))
    assert outcomes.figures["macro_f1"] == pytest.approx(f1_score(labels, said, average="macro", zero_division=0))
    assert found.confusion(classes) == confusion_matrix(labels, said, labels=classes).tolist()
    _, _, f1s, counts = precision_recall_fscore_support(labels, said, labels=classes, zero_division=0)
    for name, f1, count in zip(classes, f1s, counts, strict=True):
        one = found.by_class[name]
        assert one["labels"] == count
        assert 2 * one["right"] / (one["labels"] + one["predicted"]) == pytest.approx(f1)


@pytest.mark.slow
def test_noise_at_the_cut_is_that_of_the_runs_own_evaluations(make_toy_run):
    run = make_toy_run(**NOISE)
    loaded = open_model(run.path)
    found = score(loaded, part_of_run(loaded)).outcomes.figures
    assert loaded.noise_at_the_cut
    assert found["loss"] == pytest.approx(recorded(run, loaded.owner, "test", 2)[1]["loss"], rel=1e-5)
    quiet = score(loaded, part_of_run(loaded), MergedEvaluator(loaded)).outcomes.figures
    assert abs(quiet["loss"] - found["loss"]) > 1e-4


@pytest.mark.slow
def test_tokens_are_replaced_as_in_the_runs_own_evaluations_and_predictions_do_not_depend_on_batches(make_toy_run):
    run = make_toy_run(privacy={"santext": {"epsilon": 2.0}}, partition={"local_test": 0.2})
    loaded = open_model(run.path)
    part = part_of_run(loaded)
    found = score(loaded, part).outcomes.figures
    assert found["loss"] == pytest.approx(recorded(run, loaded.owner, "test", 2)[1]["loss"], rel=1e-5)
    whole = score(loaded, part, MergedEvaluator(loaded)).outcomes.figures
    assert abs(whole["loss"] - found["loss"]) > 1e-4
    own = open_model(run.path, client="b-1")
    local = score(own, part_of_run(own, "local")).outcomes.figures
    assert compare(local, recorded(run, own.owner, "local", 2)[1], "the run").equal
    rows = [InputRow(f"row {i}", row) for i, row in enumerate(part.rows)]
    columns = columns_of(loaded, rows[0], False)
    one, other = ([*Predictor(loaded, columns, size)(rows)] for size in (1, 32))
    assert [row[f"{CLASH}label"] for row in one] == [row[f"{CLASH}label"] for row in other]


def test_a_clients_own_test_part_is_what_its_records_say(make_toy_run):
    run = make_toy_run(partition={"local_test": 0.2})
    loaded = open_model(run.path, client="b-1")
    found = score(loaded, part_of_run(loaded, "local")).outcomes
    source, known = recorded(run, loaded.owner, "local", 2)
    assert source == "round 2 in clients.jsonl" and compare(found.figures, known, source).equal
    with pytest.raises(ConfigError, match="has no validation part"):
        part_of_run(loaded, "validation")


@pytest.mark.slow
def test_the_model_of_a_learner_that_has_all_data_is_the_groups(make_toy_run, copied, capsys):
    run = copied(make_toy_run(mode="centralized", aggregation={"method": "none"}, clients={"b": {"dtype": "bfloat16"}}))
    assert main(["evaluate", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("client g-pooled, round 2") and "equal to round 2 in metrics.jsonl" in shown


def test_another_file_is_read_as_the_groups_own_data(make_toy_run, tmp_path):
    loaded = open_model(make_toy_run(**TEXTS).path)
    file = tmp_path / "more.jsonl"
    rows = [{"label": "pos", "text": "a good film"}, {"label": "neg", "text": "bad " * 100}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part = part_of_file(loaded, str(file))
    assert part.notes == ("max_length 32: of 2 data rows 0 left out and 1 cut (training.on_truncated: cut)",)
    found = score(loaded, part).outcomes
    assert (found.labels, found.part, found.examples) == (["pos", "neg"], "more.jsonl", 2)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("text,label\na film,good\n", ConfigError, r"more\.csv: row 1 has the label 'good'.*classes are neg, pos"),
        ("words,label\na film,pos\n", ConfigError, r"more\.csv: .*the data has no column 'text'"),
        ("text,label\na film,\n", ConfigError, r"more\.csv: .*row 1 of the data, column 'label' is empty"),
        ("", ConfigError, r"more\.csv is empty"),
        (None, ResourceError, "no file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(make_toy_run, tmp_path, content, error, said):
    loaded = open_model(make_toy_run(**TEXTS).path)
    file = tmp_path / "more.csv"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=said):
        part_of_file(loaded, str(file))


def test_data_that_is_gone_is_named_with_what_to_do(make_toy_run, tmp_path):
    loaded = open_model(make_toy_run(**TEXTS).path)
    object.__setattr__(loaded.config.task_groups["g"].data, "files", str(tmp_path / "gone.csv"))
    with pytest.raises(ResourceError, match=r"no file .*gone\.csv") as caught:
        part_of_run(loaded)
    assert caught.value.__notes__ == ["restore it, or score another file with --data FILE"]


@pytest.mark.slow
def test_the_command_writes_outcomes_and_a_picture_and_says_that_figures_are_the_runs(make_toy_run, copied, capsys):
    run = copied(make_toy_run(**TEXTS))
    assert main(["evaluate", str(run.path), "--round", "1"]) == 0
    first, *_ = shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("equal to round 1 in metrics.jsonl (") for line in shown)
    (outcomes,) = read_outcomes(run)
    assert first == f"task group g, round 1, on its test part: {outcomes.examples} examples"
    assert "rows: label" in (run.path / "evaluation" / "g-test-round-1.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_json_is_as_documented(make_toy_run, copied, capsys):
    run = copied(make_toy_run(**TEXTS))
    assert main(["evaluate", str(run.path), "--merged", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = told["evaluations"]
    row = next(line for line in PAGE.splitlines() if line.startswith("| `atlas evaluate`"))
    keys = {*told, *found, *found["figures"]["loss"], *found["by_class"]["pos"], *found["confusion"], *found["merged"]}
    assert keys == set(re.findall(r"`(\w+)`", row)) - {"null"}
    assert found["merged"]["equal"] and found["figures"]["loss"]["low"] < found["figures"]["loss"]["value"]


@pytest.mark.slow
def test_figures_are_shown_where_nothing_can_be_written(make_toy_run, copied, capsys):
    run = copied(make_toy_run(**TEXTS))
    (run.path / "evaluation").write_text("in the way", encoding="utf-8")
    assert main(["evaluate", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "warning: nothing is kept for atlas compare: cannot write" in shown and "accuracy" in shown


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_one_line(make_toy_run, capsys):
    run = str(make_toy_run(**TEXTS).path)
    for arguments, code, said in (
        (["--round", "7"], 2, "round 7 of"),
        (["--round", "last"], 2, "last is no round"),
        (["--group", "h"], 2, "no task group h"),
        (["--data", "x.csv", "--split", "test"], 2, "give one of the two"),
        (["--split", "validation"], 2, "has no validation part"),
    ):
        assert main(["evaluate", run, *arguments]) == code
        assert said in capsys.readouterr().err


def test_a_file_is_of_one_task_group(tmp_path, capsys):
    run = build(tmp_path)
    config = load_config(Path(__file__).parents[2] / "configs/quickstart.yaml").config
    shutil.copy(Path(__file__).parents[2] / "configs/quickstart.yaml", run.path / "config.yaml")
    run.write_json("manifest.json", run.read_json("manifest.json") | {"config": config.model_dump(mode="json")})
    assert len(config_of(run).task_groups) > 1
    capsys.readouterr()
    assert main(["evaluate", str(run.path), "--data", str(tmp_path / "a.csv")]) == 2
    assert "the run has several task groups" in capsys.readouterr().err
    assert not (run.path / "evaluation").exists()
