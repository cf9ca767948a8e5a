"""``atlas runs``: every folder is listed, whatever state it is in, with what the runs differ in."""

import json
import re
from pathlib import Path

import pytest
from support.made_up_run import build

from atlas_cli.cli import main
from atlas_cli.runs.run_lock import locked

PAGE = (Path(__file__).parents[2] / "docs/reference/json-output.md").read_text(encoding="utf-8")


def changed(run, **changes):
    """The run with a manifest that says something else; ``config`` by dotted keys."""
    manifest = run.read_json("manifest.json")
    config = json.loads(json.dumps(manifest["config"]))
    for key, value in changes.pop("config", {}).items():
        section, _, name = key.rpartition(".")
        (config.setdefault(section, {}) if section else config)[name] = value
    for group, test_sha256 in changes.pop("tested_on", {}).items():
        manifest["data"][group]["test_sha256"] = test_sha256
    run.write_json("manifest.json", manifest | changes | {"config": config})
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("made")
    rounds = {"training.rounds": 3}
    changed(build(base), started="2026-01-01T00:00:00", config=rounds, duration_s=0.5)
    changed(build(base), started="2026-01-02T00:00:00", status="running", config={"seed": 4, **rounds})
    changed(
        build(base), started="2026-01-03T00:00:00", config={"aggregation.method": "fedex", **rounds}, duration_s=1.5
    )
    changed(
        build(base), started="2026-01-04T00:00:00", status="failed", error="no space", config=rounds, duration_s=0.25
    )
    damaged = build(base).path / "metrics.jsonl"
    damaged.write_text(damaged.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    (build(base).path / "manifest.json").write_text("[", encoding="utf-8")
    (base / "runs" / "notes").mkdir()
    (base / "runs" / ".scratch").mkdir()
    (base / "runs" / "grid_sweep").mkdir()
    (base / "runs" / "grid_sweep" / "sweep.json").write_text("{}", encoding="utf-8")
    return base / "runs"


@pytest.fixture
def listed(folder, capsys):
    def call(*arguments, code=0):
        assert main(["runs", str(folder), *arguments]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if "--json" in arguments else said.err if code else said.out

    return call


NAME = "20250131-123005_example_3"


def names(found):
    return [Path(run["run"]).name for run in found["runs"]]


def test_all_folders_are_listed_with_what_became_of_them(listed):
    found = listed("--json")
    states = dict(zip(names(found), [run["status"] for run in found["runs"]], strict=True))
    assert states == {
        NAME: "finished",
        f"{NAME}-2": "killed",
        f"{NAME}-3": "finished",
        f"{NAME}-4": "failed",
        f"{NAME}-5": "damaged",
        f"{NAME}-6": "damaged",
        "notes": "foreign",
        "grid_sweep": "foreign",
    }
    by_name = dict(zip(names(found), found["runs"], strict=True))
    run = by_name[f"{NAME}-3"]
    assert (run["rounds"], run["planned_rounds"], run["seconds"]) == (3, 3, 1.5)
    assert (run["bytes_up"], run["bytes_down"]) == (3 * 3 * 1_200_000, 3 * (3 * 1_100_000 + 45_000_000))
    assert [(g["task_group"], g["best"], g["best_round"]) for g in run["task_groups"]] == [
        ("questions", 0.75, 2),
        ("spam", 0.97, 3),
        ("prose", 40.0, 2),
    ]
    assert by_name[f"{NAME}-2"]["seconds"] == 4 * 3 * 5.0  # of its rounds
    assert found["differ_in"] == ["seed", "training.rounds", "aggregation.method"]
    assert run["config"] == {"seed": 3, "training.rounds": 3, "aggregation.method": "fedex"}
    row = next(line for line in PAGE.splitlines() if line.startswith("| `atlas runs`"))
    assert {*found, *run} <= set(re.findall(r"`(\w+)`", row))


def test_the_table_has_a_row_a_run_and_names_the_rest(listed, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = listed()
    rows = [line.split()[:3] for line in text.splitlines() if line.startswith(NAME)]
    assert rows[:2] == [[f"{NAME}-5", "damaged", "-"], [f"{NAME}-4", "failed", "3/3"]]
    assert f"{NAME}-4: failed: no space" in text and "best: the lowest perplexity" in text
    assert re.search(rf"{NAME}-6: damaged: .*manifest\.json is damaged", text)
    assert "no runs: notes (no manifest.json), grid_sweep (of a sweep)" in text
    assert text.splitlines()[-1] == f"next: atlas report {folder / NAME}-4 --open"  # no two have a test part in common


def test_runs_that_were_tested_on_the_same_examples_are_suggested_for_comparison(tmp_path, capsys):
    for day, spam in ((1, "a"), (2, "b"), (3, "a"), (4, "c")):
        tested_on = {"questions": f"{day}" * 64, "spam": spam * 64}
        changed(build(tmp_path), started=f"2026-01-0{day}T00:00:00", tested_on=tested_on)
    assert main(["runs", str(tmp_path / "runs")]) == 0
    first, third = tmp_path / "runs" / NAME, tmp_path / "runs" / f"{NAME}-3"
    assert capsys.readouterr().out.splitlines()[-1] == f"next: atlas compare {third} {first}"


def test_no_figure_is_cut_at_80_characters(listed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = listed("--where", "seed=3").partition("best (round): of")[0].splitlines()
    assert max(map(len, table)) == 80
    best = " ".join(" ".join(line[-24:] for line in table).split())
    for figure in ("0.750 (2)", "0.970 (3)", "40.000 (2)"):
        assert figure in best, table


def test_filters_and_order(listed, folder):
    assert names(listed("--json", "--status", "finished")) == [f"{NAME}-3", NAME]
    assert names(listed("--json", "--where", "seed=4")) == [f"{NAME}-2"]
    assert names(listed("--json", "--where", "aggregation.method=fedex", "--status", "failed")) == []
    assert names(listed("--json", "--sort", "seconds"))[:2] == [f"{NAME}-4", NAME]
    assert "no such run among the 8 folders" in listed("--where", "seed=99")
    assert "did you mean finished?" in listed("--status", "finish", code=2)
    assert listed("--status", "x", code=2).count("killed") == 1  # the list of valid words stands there once
    assert "must be KEY=VALUE" in listed("--where", "seed", code=2)


def test_a_run_that_a_process_writes_is_running(tmp_path, capsys):
    run = changed(build(tmp_path), status="running")
    with locked(run, lambda note: None):
        assert main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["status"] == "running"


def test_a_folder_that_is_no_folder_of_runs(tmp_path, capsys):
    run = build(tmp_path)
    assert main(["runs", str(run.path)]) == 3
    assert f"is a run directory; give the folder that it is in: {run.path.parent}" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "none")]) == 3
    assert "cannot list the runs there: No such file or directory" in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 0
    assert "no run in" in capsys.readouterr().out
