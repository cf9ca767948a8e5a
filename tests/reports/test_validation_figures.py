"""Figures of runs with a validation part: the best round is chosen on it, and every place says on which part it was."""

import io

import pytest
from support.made_up_run import GROUPS, VALUES, metrics_record

from atlas_cli.reports.page.headline import headline
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.page.scores import scores
from atlas_cli.reports.page.sweep import sweep_page
from atlas_cli.reports.progress import round_line
from atlas_cli.reports.summary import chosen_sentence, summarise
from atlas_cli.reports.tables import final_table
from atlas_cli.reports.terminal import Terminal

VALIDATION = {"questions": [0.2, 0.8, 0.8, 0.6], "prose": [900.0, 70.0, 75.0, 30.0]}  # spam has none
DATA = {"questions": {"train": 800, "test": 200, "validation": 50}}


def record(group, number):
    if group not in VALIDATION:
        return metrics_record(group, number)
    validation = {GROUPS[group]: VALIDATION[group][number], "loss": 2.0 + number / 10}
    return metrics_record(group, number, validation=validation)


@pytest.fixture(scope="module")
def metrics():
    return [record(group, number) for number in range(4) for group in GROUPS]


def test_the_best_round_is_that_of_the_validation_part(metrics):
    """Of equal values the first; what is shown of it is the figure on the test part."""
    questions, spam, prose = summarise(metrics, [], DATA)
    best = (questions.best_round, questions.best, questions.best_validation, questions.chosen_on, questions.validation)
    assert best == (1, VALUES["questions"][1], 0.8, "validation", 50)
    assert (prose.best_round, prose.best, prose.best_validation) == (3, 41.0, 30.0)
    assert (spam.best_round, spam.best, spam.best_validation, spam.chosen_on) == (3, 0.97, None, "test")
    assert chosen_sentence([questions, spam, prose]) == (
        "best round: chosen on the test part itself in spam, on the validation part in questions, prose"
    )


def test_terminal_and_report_say_on_which_part_it_was_chosen(metrics):
    out = io.StringIO()
    Terminal(file=out, width=160).print(final_table(metrics, [], DATA, 160))
    assert "0.500 (1)" in out.getvalue()
    assert "best round: chosen on the test part itself in spam, on the validation part" in out.getvalue()
    early = {"after_round": 3, "of": 9, "why": "no task group has improved"}
    records = RunRecords("run", "run", {"data": DATA, "early_stop": early, "model": {}, "config": {}}, metrics)
    assert "for 3 rounds of 9, until no task group has improved." in headline(records)
    assert "best on the validation part in round 1: 0.500" in headline(records)
    text = scores(records)
    assert "Best round: chosen on the test part itself in spam" in text
    assert "dotted: on the validation part" in text and "validation, last" in text
    assert round_line(1, 3, [record("questions", 1), record("spam", 1)]).startswith(
        "round 1/3  questions loss 1.000 accuracy 0.500 (validation 0.800)  spam loss 1.000 accuracy 0.900  "
    )


def test_the_best_run_of_a_sweep_is_chosen_on_the_validation_part_where_all_have_one(tmp_path):
    def run(number, validation):
        of = {"metric": "accuracy", "better": "higher", "after": number / 10, "bytes_up": 1, "bytes_down": 1}
        of |= {"best": number / 20, "best_round": number, "best_validation": validation}
        values = {"status": "finished", "run": None, "error": None, "seconds": 1.0, "values": {"seed": number}}
        return {"number": number, "task_groups": {"g": of}, **values}

    said = sweep_page(tmp_path, {"runs": [run(1, 0.9), run(2, 0.8)]})
    assert "g: best accuracy 0.050 in run 1, seed=1 (round 1, chosen on the validation part)" in said
    said = sweep_page(tmp_path, {"runs": [run(1, 0.9), run(2, None)]})
    assert "g: best accuracy 0.200 in run 2, seed=2 (chosen on the test part)" in said
