"""Speed by commit: what counts as worse, what is compared with what, and that the page is what is on record."""

import json

import pytest
from contestants import history
from contestants.comparisons import Result

from atlas_cli.errors import AtlasError

MACHINE = {"processor": "one", "threads": 1, "quick": True}


def a_line(commit, low, middle, high, n=3, *, at_most=False, **machine):
    result = Result(
        "naive split", "gpt2, 8 x 1", {"median": middle, "q1": low, "q3": high, "n": n}, 2.0, at_most=at_most
    )
    return history.line(commit * 10, {**MACHINE, **machine}, [0.1, None], [result])


@pytest.mark.parametrize(
    ("then", "now", "options", "mark"),
    [
        ((1.9, 2.0, 2.1), (1.6, 1.7, 1.8), {}, history.FELL),
        ((1.6, 1.7, 1.8), (1.9, 2.0, 2.1), {}, history.ROSE),
        ((1.6, 1.7, 1.8), (1.9, 2.0, 2.1), {"at_most": True}, history.FELL),  # memory
        ((1.6, 1.7, 1.9), (1.9, 2.0, 2.1), {}, ""),  # quartiles touch
        ((1.9, 2.0, 2.1), (1.7, 1.7, 1.7), {"n": 1}, ""),  # one turn has no spread
    ],
)
def test_a_figure_is_marked_where_quartiles_do_not_overlap(then, now, options, mark):
    lines = [a_line("a", *then, **options), a_line("b", *now, **options)]
    assert history.cell(lines, 1, ("naive split", "gpt2, 8 x 1")).partition(")")[2].strip() == mark


def test_a_commit_is_compared_with_the_one_before_on_the_same_machine():
    lines = [a_line("a", 1.9, 2.0, 2.1), a_line("b", 0.9, 1.0, 1.1, threads=2), a_line("c", 1.6, 1.7, 1.8)]
    cells = [history.cell(lines, number, ("naive split", "gpt2, 8 x 1")) for number in range(3)]
    assert cells == ["2.00 (1.90 to 2.10)", "1.00 (0.90 to 1.10)", f"1.70 (1.60 to 1.80) {history.FELL}"]
    assert history.cell(lines, 2, ("another", "work")) == ""


def test_lines_are_appended_and_the_newest_are_shown(tmp_path):
    path = tmp_path / "history.jsonl"
    for commit in "abcdefgh":
        history.append(a_line(commit, 1.9, 2.0, 2.1), path)
    assert [json.loads(text)["commit"][0] for text in path.read_text(encoding="utf-8").splitlines()] == [*"abcdefgh"]
    shown = history.page(history.read(path))
    assert "| cccccccccc | dddddddddd |" in shown and "bbbbbbbbbb" not in shown
    assert "- hhhhhhhhhh, " in shown and "load 0.1 before and not known after" in shown


def test_what_is_not_committed_is_on_no_record(monkeypatch):
    monkeypatch.setattr(history, "atlas_commit", lambda: {"commit": "a" * 40, "changed": True})
    with pytest.raises(AtlasError, match="atlas_cli/ has changes that are not committed"):
        history.unchanged_commit()


def test_the_page_is_what_is_on_record():
    lines = history.read()
    assert lines and history.PAGE.read_text(encoding="utf-8") == history.page(lines)
