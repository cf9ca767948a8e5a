"""``atlas compare``: on made-up runs whose figures, costs and tests are easy to reckon."""

import json
import re
from pathlib import Path

import pytest
from scipy.stats import binomtest
from support.made_up_run import HASH, build

from atlas_cli.cli import main
from atlas_cli.runs.outcomes import Outcomes, Terms, write_outcomes

PAGE = (Path(__file__).parents[2] / "docs/reference/json-output.md").read_text(encoding="utf-8")
RIGHT = {"one": [1.0] * 140 + [0.0] * 60, "two": [1.0] * 130 + [0.0] * 50 + [1.0] * 20}  # 10 and 20 alone


def made(base, method, seed=3, right=(), test_hash=HASH, virtual=None):
    """A made-up run with another method, seed or test part, on a virtual clock or without one."""
    run = build(base)
    manifest = run.read_json("manifest.json")
    for facts in manifest["data"].values():
        facts["test_sha256"] = test_hash
    config = {**manifest["config"], "seed": seed, "aggregation": {"method": method}, "evaluation": {"every": 1}}
    run.write_json("manifest.json", {**manifest, "config": config})
    if virtual is not None:
        rows = run.read_lines("metrics.jsonl")
        (run.path / "metrics.jsonl").unlink()
        clock = {"simulated_seconds": virtual, "simulated_joules": 2 * virtual}
        run.append("metrics.jsonl", [row | (clock if row["round"] else {}) for row in rows])
    if len(right):
        share = sum(right) / len(right)
        outcomes = Outcomes(
            **{"task_group": "questions", "client": None, "part": "test", "round": 3, "rows_sha256": test_hash},
            **{"metric": "accuracy", "better": {"accuracy": "higher"}, "examples": len(right)},
            **{"figures": {"accuracy": share}, "labels": None, "predicted": None},
            terms={"accuracy": Terms(values=list(right))},
        )
        write_outcomes(run, "questions-test", outcomes)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("made")
    return [
        made(base, "fedex", right=RIGHT["one"], virtual=2.0),
        made(base, "zero-pad", right=RIGHT["two"]),
        made(base, "zero-pad", seed=4, test_hash="1" * 64),
    ]


@pytest.fixture
def compare(capsys):
    def call(*arguments, code=0):
        assert main(["compare", *map(str, arguments)]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if "--json" in arguments else said.err if code else said.out

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "comparison"


def test_all_that_is_said_of_three_runs(runs, compare, folder):
    paths = [run.path for run in runs]
    found = compare(*paths, "--json", "--by-seed", "--output", folder)
    assert [run["name"] for run in found["runs"]] == [
        *("seed=3, method=fedex", "seed=3, method=zero-pad", "seed=4, method=zero-pad")
    ]
    one, two, three = (run["name"] for run in found["runs"])
    assert found["differ"]["config"] == {
        "seed": {one: 3, two: 3, three: 4},
        "aggregation.method": {one: "fedex", two: "zero-pad", three: "zero-pad"},
    }
    assert set(found["differ"]["data"]) == {f"{group}.test_sha256" for group in ("questions", "spam", "prose")}

    (test,) = found["paired_tests"]
    assert (test["run"], test["against"], test["test"], test["alone"]) == (two, one, "McNemar, exact", [20, 10])
    assert test["p"] == test["p_holm"] == pytest.approx(binomtest(10, 30).pvalue)
    assert test["difference"] == pytest.approx(0.05) and test["interval"][0] < 0.05 < test["interval"][1]

    score = found["scores"][0]
    assert (score["run"], score["task_group"], score["metric"], score["value"]) == (one, "questions", "accuracy", 0.7)
    assert (score["best"], score["best_round"], score["interval"]) == (0.75, 2, pytest.approx([0.633, 0.759], abs=1e-3))
    prose = next(each for each in found["targets"] if each["target"]["task_group"] == "prose")
    assert prose["target"] | {"given": False} == {
        **{"task_group": "prose", "metric": "perplexity", "better": "lower", "value": 40.0, "given": False}
    }
    assert (prose["round"], prose["bytes"], prose["seconds"], prose["joules"]) == (2, 2 * 2_300_000, 4.0, 8.0)
    over = next(each for each in found["over_seeds"] if each["name"] == "method=zero-pad")
    assert (over["mean"], over["sd"], over["n"], over["seeds"], over["test_parts"]) == (0.7, 0.0, 2, [3, 4], 2)
    assert any("test parts differ" in note and "questions, spam, prose" in note for note in found["notes"])
    row = next(line for line in PAGE.splitlines() if line.startswith("| `atlas compare`"))
    told = {*found, *found["runs"][0], *found["differ"], *score, *test, *prose, *prose["target"], *over}
    assert told <= set(re.findall(r"`(\w+)`", row))


@pytest.mark.slow
def test_a_folder_keeps_no_table_of_an_earlier_comparison(runs, compare, tmp_path):
    paths = [run.path for run in runs]
    compare(*paths, "--by-seed", "--output", tmp_path)
    assert (tmp_path / "paired-tests.tex").exists() and (tmp_path / "over-seeds.csv").exists()
    own = tmp_path / "paper.tex"
    own.write_text("\\input{scores}", encoding="utf-8")
    compare(paths[0], paths[2], "--output", tmp_path)  # other test parts: no paired test
    files = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["files"]
    assert {path.name for path in tmp_path.iterdir()} == {*files, "comparison.json", own.name}
    assert not {"paired-tests.tex", "over-seeds.csv"} & set(files)


def test_a_folder_gets_every_table_in_three_formats_and_pictures_for_two_pages(folder):
    names = {path.name for path in folder.iterdir()}
    tables = ("scores", "paired-tests", "targets", "memory", "over-seeds", "differ-config", "differ-data")
    assert names >= {f"{table}.{suffix}" for table in tables for suffix in ("md", "tex", "csv")}
    assert names >= {
        f"{picture}-{mode}.svg"
        for picture in ("accuracy-by-bytes-questions", "accuracy-by-seconds-questions", "memory")
        for mode in ("light", "dark")
    }
    for path in folder.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text and 'xmlns="http://www.w3.org/2000/svg"' in text
    labels = re.findall(r">([^<]*(?:fedex|zero-pad))<", (folder / "memory-light.svg").read_text(encoding="utf-8"))
    assert labels == ["3, fedex", "3, zero-pad", "4, zero-pad"]


def test_tables_on_the_terminal_name_what_lacks(runs, compare, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = compare(runs[1].path, runs[2].path, "--target", "accuracy=0.9")
    assert "not reached" in text and "accuracy ≥ 0.9" in text and "Paired tests" not in text
    assert "no virtual seconds and joules" in text and "--by-seed adds means" in text
    other = compare(runs[0].path, made(runs[0].path.parents[1], "ffa").path)
    assert re.search(
        r"paired tests need what each test example gave: atlas evaluate \S+_3; atlas evaluate \S+_3-\d", other
    )
    assert compare(runs[0].path, runs[1].path, "--format", "latex").count(r"\bottomrule") == 5


def test_runs_whose_scored_examples_are_others_are_not_paired(compare, tmp_path):
    one, two, mean = (made(tmp_path, method, right=RIGHT["one"]) for method in ("fedex", "ffa", "none"))
    path = two.path / "evaluation" / "questions-test.json"
    other = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(other | {"labels": ["a"] * 200, "predicted": ["a"] * 200}), encoding="utf-8")
    rows = mean.read_lines("metrics.jsonl")
    (mean.path / "metrics.jsonl").unlink()
    mean.append("metrics.jsonl", [row | {"models": 2} for row in rows])
    found = compare(one.path, two.path, mean.path, "--json")
    assert found["paired_tests"] == []
    assert (
        "questions: no paired test of method=ffa against method=fedex: not the same examples scored" in found["notes"]
    )
    assert {score["models"] for score in found["scores"] if score["run"] == "method=none"} == {2}


def test_what_cannot_be_compared_is_named(runs, compare, tmp_path):
    assert "give two run directories or more" in compare(runs[0].path, code=2)
    assert "is given twice" in compare(runs[0].path, runs[0].path, code=2)
    assert "did you mean accuracy?" in compare(*[r.path for r in runs], "--target", "acuracy=1", code=2)
    assert "must be METRIC=VALUE" in compare(*[r.path for r in runs], "--target", "accuracy", code=2)
    assert "no such run directory" in compare(runs[0].path, tmp_path / "none", code=3)
