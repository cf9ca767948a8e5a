"""``atlas export``: from a finished run and from one that was killed, of a group and of a client."""

import json
import re
import shutil

import pytest
import transformers

from atlas_cli.cli import main


@pytest.fixture
def run(make_toy_run):
    return make_toy_run("sequence-classification", aggregation={"method": "flora"})


def test_a_run_is_exported_and_its_card_says_what_it_is(run, tmp_path, capsys):
    to = tmp_path / "model"
    assert main(["export", str(run.path), "--to", str(to)]) == 0
    said = capsys.readouterr().out
    assert "exported task group g after round 2" in said and "for sentence-transformers" in said
    assert "the head reads the mean over all tokens" in said
    card, facts = (to / "README.md").read_text(encoding="utf-8"), json.loads((to / "export.json").read_text("utf-8"))
    manifest = run.read_json("manifest.json")
    metrics = run.read_lines("metrics.jsonl")[-1]["test"]
    for part in (
        "merging: flora",
        f"training examples: {manifest['data']['g']['train']}",
        f"sha256 of training rows: {manifest['data']['g']['sha256']}",
        f"sha256 of all weights: {manifest['model']['sha256']}",
        f"| accuracy | {metrics['accuracy']:.6g} |",
        "licence: not known",
        "| updates | infinite: no bound |",
    ):
        assert part in card, part
    assert (facts["classes"], facts["pooling"], facts["test"]) == (["neg", "pos"], "mean", metrics)
    assert not [file for file in to.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".py")]


@pytest.mark.slow
def test_a_pipeline_of_transformers_takes_a_head_on_the_first_token(make_toy_run, tmp_path, capsys):
    run = make_toy_run("sequence-classification", task_groups={"g": {"pooling": "first"}})
    capsys.readouterr()  # the run's, where it is trained here
    to = tmp_path / "model"
    assert main(["export", str(run.path), "--to", str(to), "--round", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["round"], record["loads_with"]) == (1, "transformers")
    assert record["class"] == "AutoModelForSequenceClassification"
    assert record["agreement"]["difference"] <= 1e-5
    said = transformers.pipeline("text-classification", str(to), device="cpu")("the film was great")
    assert said[0]["label"] in ("neg", "pos")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_run_that_was_killed_is_exported_and_reported_from_its_checkpoint(run, tmp_path, capsys):
    killed = tmp_path / "killed"
    shutil.copytree(run.path, killed)
    shutil.rmtree(killed / "adapters")
    (killed / "report.html").unlink()
    manifest = run.read_json("manifest.json") | {"status": "running", "ended": None}
    del manifest["adapters_of_round"]
    type(run)(killed).write_json("manifest.json", manifest)
    to = tmp_path / "adapter"
    assert main(["export", str(killed), "--to", str(to), "--client", "b-1", "--format", "peft", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["owner"], record["round"], record["format"]) == ("b-1", 2, "peft")
    assert "state of the run: running" in (to / "README.md").read_text(encoding="utf-8")
    assert main(["report", str(killed)]) == 0
    assert (killed / "report.html").is_file()


def test_what_cannot_be_exported_is_one_line(run, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for arguments, code, said in (
        (["--to", str(tmp_path / "file")], 1, "is a file; name a new folder"),
        (["--to", str(tmp_path / "x"), "--round", "7"], 2, "round 7 of .* is not kept"),
        (["--to", str(tmp_path / "x"), "--round", "last"], 2, "--round: last is no round; give a number, or best"),
        (["--to", str(tmp_path / "x"), "--group", "h"], 2, "no task group h"),
    ):
        assert main(["export", str(run.path), *arguments]) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(said, error), error
    assert not (tmp_path / "x").exists()
