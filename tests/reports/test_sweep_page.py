"""report.html of a sweep: the best run by the direction of the metric, and ways to the reports of its runs."""

import re
from pathlib import Path

import pytest

from atlas_cli.reports.page.sweep import sweep_page


def group(metric, better, after):
    return {"metric": metric, "better": better, "after": after, "bytes_up": 4_000_000, "bytes_down": 1_000_000}


@pytest.fixture
def record(tmp_path):
    runs = []
    for number, (perplexity, accuracy) in enumerate([(40.0, 0.5), (30.0, 0.7), (None, None)], 1):
        groups = {"prose": group("perplexity", "lower", perplexity), "spam": group("accuracy", "higher", accuracy)}
        failed = perplexity is None
        runs.append(
            {
                "number": number,
                "values": {"seed": 0, "aggregation.method": f"<m{number}>"},
                "status": "failed" if failed else "finished",
                "run": None if failed else str(tmp_path / f"run {number}"),
                "error": "killed by SIGKILL" if failed else None,
                "seconds": 3.0,
                "task_groups": {} if failed else groups,
            }
        )
    return {"runs": runs}


def test_the_best_run_goes_by_the_direction_of_the_metric(record, tmp_path):
    text = sweep_page(tmp_path / "sweep", record)
    assert "2 of 3 runs finished, 1 failed." in text
    assert "prose: best perplexity 30.000 in run 2, seed=0 aggregation.method=&lt;m2&gt;" in text
    assert "spam: best accuracy 0.700 in run 2" in text
    assert "killed by SIGKILL" in text and "<m2>" not in text


def test_runs_beside_the_sweep_are_one_click_away(record, tmp_path):
    text = sweep_page(tmp_path / "sweep", record)
    assert '<a href="../run%201/report.html">run 1</a>' in text
    elsewhere = sweep_page(Path("elsewhere") / "sweep", record)
    assert "report.html" not in elsewhere and ">run 1</td>" in elsewhere


def test_means_over_seeds_take_the_place_of_runs_in_the_chart(record, tmp_path):
    found = {"metric": "accuracy", "better": "higher", "mean": 0.6, "sd": 0.1, "n": 2}
    record["over_seeds"] = [{"values": {"aggregation.method": "fedex"}, "seeds": 3, "task_groups": {"spam": found}}]
    text = sweep_page(tmp_path / "sweep", record)
    assert "spam: test accuracy by aggregation.method, mean over seeds, plus and minus a standard deviation." in text
    assert re.search(r"fedex</th><td[^>]*>0.600</td><td[^>]*>0.500</td><td[^>]*>0.700</td>", text)


def test_it_loads_itself_again_while_runs_are_to_come(record, tmp_path):
    assert "refresh" in sweep_page(tmp_path / "sweep", record, again=True)
    assert "refresh" not in sweep_page(tmp_path / "sweep", record)
