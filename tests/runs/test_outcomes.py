"""Outcomes by example: written and read again, and figures that are those of the file."""

import math
import re

import numpy as np
import pytest

from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.outcomes import Outcomes, Terms, read_outcomes, write_outcomes
from atlas_cli.statistics import wilson

LABELS, SAID = ["spam", "ham", "ham", "spam"], ["spam", "ham", "spam", "spam"]
OUTCOMES = Outcomes(
    task_group="mail",
    client=None,
    part="test",
    round=3,
    rows_sha256="0" * 64,
    metric="accuracy",
    better={"accuracy": "higher", "macro_f1": "higher", "perplexity": "lower", "odd": "higher"},
    figures={
        "accuracy": 0.75,
        "macro_f1": (0.8 + 2 / 3) / 2,
        "matthews": 3**-0.5,
        "perplexity": math.exp(1.5),
        "odd": 3.0,
    },
    examples=4,
    labels=LABELS,
    predicted=SAID,
    terms={
        "accuracy": Terms(values=[1.0, 1.0, 0.0, 1.0]),
        "perplexity": Terms(values=[3.0, 3.0, 1.0, 5.0], weights=[1.0, 2.0, 3.0, 2.0], then="exp"),
        "odd": Terms(values=[1.0, 1.0, 1.0, 1.0]),
    },
)


def test_what_is_written_is_read_again(tmp_path):
    run = RunDirectory(tmp_path)
    write_outcomes(run, "mail-test", OUTCOMES)
    assert list(read_outcomes(run)) == [OUTCOMES]


def test_a_figure_is_that_of_the_file_over_all_examples_and_another_over_some():
    every = np.arange(4)
    for name in ("accuracy", "macro_f1", "matthews", "perplexity"):
        assert OUTCOMES.figure(name)(every) == pytest.approx(OUTCOMES.figures[name])
    assert OUTCOMES.figure("accuracy")(np.array([2, 2, 0, 0])) == 0.5
    assert OUTCOMES.figure("odd") is None  # what its terms give is not what the file says
    assert OUTCOMES.figure("loss") is None


def test_a_share_has_wilsons_interval_and_other_figures_one_of_resamples():
    assert OUTCOMES.interval("accuracy") == wilson(0.75, 4)
    low, high = OUTCOMES.interval("perplexity")
    assert math.exp(1 / 3) <= low < math.exp(1.5) < high <= math.exp(3)
    assert OUTCOMES.interval("odd") is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "damaged"),
        (OUTCOMES.model_copy(update={"labels": ["ham"]}).model_dump_json(), "damaged: a list is not of all 4 examples"),
        (OUTCOMES.model_copy(update={"round": -1}).model_dump_json()[:-1] + ',"a": 1}', "damaged"),
        (OUTCOMES.model_dump_json()[:-1] + ',"a": 1}', "of another version of atlas (it has a)"),
        (OUTCOMES.model_dump_json(exclude={"terms", "better"}), "of another version of atlas (it lacks better, terms)"),
    ],
    ids=["torn", "short list", "wrong value", "unknown key", "no such key"],
)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path, text, wrong):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "mail-test.json").write_text(text, encoding="utf-8")
    said = rf"mail-test\.json is {re.escape(wrong)}; remove it, and run atlas evaluate .* again$"
    with pytest.raises(ResourceError, match=said):
        list(read_outcomes(RunDirectory(tmp_path)))
