"""``atlas report``: the page of a run or a sweep from its records alone, whatever state it is in."""

import json
import webbrowser
from pathlib import Path

import pytest
from support.made_up_run import build

from atlas_cli.cli import main
from atlas_cli.reports.page.report import page
from atlas_cli.runs.run_lock import locked


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return build(tmp_path)


@pytest.fixture
def report(capsys):
    def call(*arguments, code=0):
        assert main(["report", *map(str, arguments)]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return call


def test_the_newest_run_is_reported_anew_and_opened(run, report, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert report("--open").startswith(f"report {Path('runs')}")
    made = run.path / "report.html"
    assert made.read_text(encoding="utf-8") == page(run) and opened == [made.as_uri()]


def test_a_run_that_another_process_writes_is_reported_elsewhere(run, report, tmp_path):
    run.write_json("manifest.json", run.read_json("manifest.json") | {"status": "running"})
    assert "Not finished after round 3" in page(run)
    with locked(run, lambda note: None):
        assert "--output FILE writes all records so far" in report(run.path, code=1)
        report(run.path, "--output", tmp_path / "now.html")
    text = (tmp_path / "now.html").read_text(encoding="utf-8")
    assert "Going on after round 3 of ?." in text and "<h2>Memory</h2>" in text and "refresh" not in text
    assert not (run.path / "report.html").exists()


def test_the_page_that_a_run_writes_while_it_goes_on_is_opened_and_left_to_it(run, report, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    page_of_its_own = run.path / "report.html"
    page_of_its_own.write_text("growing", encoding="utf-8")
    with locked(run, lambda note: None):
        assert "the run goes on, and writes it anew" in report(run.path, "--open")
    assert page_of_its_own.read_text(encoding="utf-8") == "growing" and opened == [page_of_its_own.as_uri()]


def test_a_sweep_has_a_page_too(run, report, tmp_path):
    folder = tmp_path / "runs" / "a_sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"runs": []}), encoding="utf-8")
    assert json.loads(report(folder, "--json")) == {"report": str(folder / "report.html")}
    assert "0 of 0 runs finished" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_reported_is_named(run, report, tmp_path):
    assert "no such run directory" in report(tmp_path / "none", code=3)
    assert "has no manifest.json" in report(tmp_path, code=3)


def test_a_file_that_is_no_report_is_not_overwritten(run, report, tmp_path):
    config, made = tmp_path / "offline.yaml", tmp_path / "result.html"
    config.write_text("name: offline\n", encoding="utf-8")
    refused = report(run.path, "--output", config, code=2)
    assert "is no report that atlas wrote" in refused and refused.count("\n") == 1
    assert config.read_text(encoding="utf-8") == "name: offline\n"
    for _ in range(2):
        report(run.path, "--output", made)
    for output, why in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.html", f"no folder {tmp_path / 'no'}")):
        said = report(run.path, "--output", output, code=1)
        assert f"--output: cannot write {output}" in said and why in said and "output.dir" not in said
