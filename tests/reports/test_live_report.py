"""report.html while a run goes on: written at evaluations, whole at every moment, and rarely where it is expensive."""

import pytest
from support.made_up_run import metrics_record

from atlas_cli.reports.page import live
from atlas_cli.reports.page.live import LiveReport

RUNNING = {"name": "example", "status": "running", "config": {"training": {"rounds": 9}}}


@pytest.fixture
def now(monkeypatch):
    """Seconds that pass only as told; a page costs as many as ``now["cost"]``."""
    time = {"is": 0.0, "cost": 0.0}
    real = live.page_of

    def costly(records, written):
        time["is"] += time["cost"]
        return real(records, written=written)

    monkeypatch.setattr(live, "page_of", costly)
    return time


@pytest.fixture
def report(make_run, now):
    run = make_run()
    (run.path / "report.html").unlink(missing_ok=True)
    return LiveReport(run, RUNNING, [metrics_record("spam", 0)], lambda: now["is"])


def page_of(report):
    path = report.run.path / "report.html"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_it_is_written_after_an_evaluation_and_not_in_between(report):
    report.after_round([metrics_record("spam", 1, test={})])
    assert page_of(report) == ""
    report.after_round([metrics_record("spam", 1)])
    assert "Going on after round 1 of 9, as of 20" in page_of(report) and 'http-equiv="refresh"' in page_of(report)
    assert "before training 0.850" in page_of(report), "records of before this process"
    assert not list(report.run.path.glob(".*partial"))


def test_a_page_that_became_expensive_is_written_less_often(report, now):
    now["cost"] = 2.0
    for number in (1, 2, 3):
        now["is"] += 150.0
        report.after_round([metrics_record("spam", number)])
        assert f"round {1 if number < 3 else 3} of 9" in page_of(report)


def test_a_full_disk_is_met_where_records_are_written(report, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atlas_cli.runs.directory.move", full)
    report.after_round([metrics_record("spam", 1)])
    assert page_of(report) == ""
