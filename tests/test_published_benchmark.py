"""``benchmarks/published/``: how a verdict comes about, what ends with 1, and that the page is what is on record."""

import subprocess
from types import SimpleNamespace

import pytest
from paired import Interval
from published import all as published
from published import page, records
from published.claim import VERDICTS, Claim, Figure, Paper


def claim(*printed, values=(), **fields):
    figures = tuple(Figure(f"figure {n}", text) for n, text in enumerate(printed))
    return Claim("it holds", "table 1", "as there", figures, lambda: values, **fields)


@pytest.mark.parametrize(
    ("printed", "values", "fields", "verdict"),
    [
        (["0.50", "1,200"], [0.5049, 1200.4], {}, "exact"),
        (["0.50"], [0.506], {}, "not reproduced"),
        (["0.50", "1,200"], [0.52, 1130.0], {"interval": 0.06}, "reproduced"),
        (["0.50", "1,200"], [0.54, 1130.0], {"interval": 0.06}, "not reproduced"),
        (["3", "1", "1"], [30.0, 10.0, 12.0], {"ranked": True, "interval": 0.5}, "same order"),
        (["3", "1", "2"], [30.0, 10.0, 40.0], {"ranked": True}, "not reproduced"),
        (["3", "1"], [7.0, 7.0], {"ranked": True}, "not reproduced"),
        (["0.5", "0.4"], [7.02, 7.01], {"ranked": True}, "not reproduced"),  # 7.0 and 7.0
        (["3"], [7.0], {"ranked": True}, "not reproduced"),  # one figure has no order
        (["3", "1"], [3.0, None], {"ranked": True, "interval": 9.0}, "not reproduced"),
        (["+0.97", "-2"], [Interval(0.97, 0.96), Interval(-0.1, 0.05)], {}, "same order"),  # however near
        (["+0.97", "-2"], [Interval(0.97, 0.98), Interval(-0.1, 0.05)], {}, "not reproduced"),
        (["+0.97"], [Interval(-5.0, 0.1)], {"interval": 9.0}, "not reproduced"),
        (["+0.97"], [Interval(0.97, None)], {}, "not reproduced"),  # one seed
    ],
)
def test_a_verdict_follows_the_rule(printed, values, fields, verdict):
    assert claim(*printed, **fields).verdict(values) == verdict


def test_rounding_is_allowed_where_a_claim_states_it():
    zero = Claim("c", "eq. 1", "s", (Figure("difference", "0", within=1e-9),), lambda: [])
    assert [zero.verdict([value]) for value in (-1e-10, 1e-8)] == ["exact", "not reproduced"]


def test_a_small_difference_is_one_whose_whole_interval_is_small():
    small = Claim("c", "table 1", "s", (Figure("difference", "+0.1", at_most=1.0),), lambda: [])
    found = [small.verdict([value]) for value in (Interval(-0.4, 0.5), Interval(0.6, 0.5), Interval(0.1, None))]
    assert found == ["same order", "not reproduced", "not reproduced"]


@pytest.fixture
def one_paper(monkeypatch, tmp_path):
    """A paper of one claim, and its record and page in a folder of their own."""

    def measure(value):
        module = SimpleNamespace(
            PAPER=Paper("A paper", "1"), claims=lambda: [claim("2.0", values=[value], interval=0.1)]
        )
        monkeypatch.setattr(published, "papers", lambda: {"a_paper": module})
        return published.main

    path = tmp_path / "records.json"
    monkeypatch.setattr(published, "read", lambda: records.read(path))
    monkeypatch.setattr(published, "write", lambda found: records.write(found, path))
    monkeypatch.setattr(page, "PAGE", tmp_path / "published.md")
    return measure


def test_a_worse_verdict_ends_with_1_and_stays_off_the_record(one_paper, capsys):
    assert one_paper(2.1)(["--write"]) == 0
    assert "| it holds | table 1 | 2.0 | 2.1 | reproduced |" in page.PAGE.read_text(encoding="utf-8")
    assert one_paper(2.0)([]) == 0  # better
    assert one_paper(2.5)([]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "a_paper: it holds (table 1) | 2.0 | 2.5 | not reproduced"
    assert err == "worse: a_paper: it holds: not reproduced, and was reproduced\n"
    assert one_paper(2.1)([]) == 0


def test_what_is_written_of_papers_before_is_no_change_of_the_program(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    for name in (*records.WRITTEN, "other.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before\n", encoding="utf-8")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    found = [records.changed(tmp_path)]
    for name in (*records.WRITTEN, "other.py"):
        (tmp_path / name).write_text("after\n", encoding="utf-8")
        found.append(records.changed(tmp_path))
    assert found == [False, False, False, True]
    assert all((records.HERE.parents[1] / name).is_file() for name in records.WRITTEN)


def test_an_interval_is_on_record_and_on_the_page(tmp_path):
    of_seeds = claim("+1.0", values=[Interval(0.53, 0.21)])
    records.write({"a": {"c": records.measured(of_seeds)}}, tmp_path / "records.json")
    (value,) = records.read(tmp_path / "records.json")["a"]["c"].measured.values()
    assert value == Interval(0.53, 0.21) and page.shown(value, "+1.0") == "+0.5 ± 0.2"


def test_what_claims_beside_each_other_share_stands_once():
    first, second, other = claim("1", found="more"), claim("2"), claim("3", interval=0.1, found="less")
    assert list(page.notes([first, second, other])) == [
        "- **it holds**, **it holds** (figure 0): as there.",
        "    - it holds: more",
        "- **it holds** (figure 0): as there. Interval: 10 % of the figure. Found: less",
    ]


def test_the_page_is_what_is_on_record():
    modules, found = records.papers(), records.read()
    made = {name: [each.name for each in module.claims()] for name, module in modules.items()}
    assert {name: sorted(claims) for name, claims in found.items()} == {name: sorted(n) for name, n in made.items()}
    assert all(len(set(names)) == len(names) for names in made.values())
    for name, module in modules.items():
        for each in module.claims():
            record = found[name][each.name]
            assert record.printed == {figure.name: figure.printed for figure in each.figures}
            assert record.verdict == each.verdict(list(record.measured.values())) and record.verdict in VERDICTS
    assert page.PAGE.read_text(encoding="utf-8") == page.text(modules, found)
