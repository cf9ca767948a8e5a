"""``benchmarks/learning.py``: the configs that it trains, and what is read off a run."""

import pytest
from learning import CONFIG, WAYS, changes_of, reached, with_text_of

from atlas_cli.config.load import load_config


@pytest.mark.parametrize("way", WAYS)
def test_every_client_learns_so(way):
    specs = load_config(CONFIG, changes_of(way)).config.expanded_clients()
    assert {spec.learns for spec in specs} == {way.partition(",")[0]}
    assert all((spec.rank == 0) == (spec.learns == "frozen") and spec.device for spec in specs)


def line(number, group, accuracy):
    test = None if accuracy is None else {"accuracy": accuracy}
    return {"round": number, "task_group": group, "test": test, "simulated_seconds": number, "simulated_joules": 10.0}


def test_target_is_of_the_mean_over_groups_at_the_first_evaluation_that_has_it():
    curve = [(0, 0.9, 0.9), (1, None, None), (2, 0.8, 0.5), (3, 0.9, 0.7), (4, 0.2, 0.2)]
    lines = [line(number, group, score) for number, *both in curve for group, score in zip("ab", both, strict=True)]
    assert reached(lines, 0.6) == (3.0, 30.0)  # rounds 0 to 2, each once; what is there before training counts not
    assert reached(lines, 0.8) == (6.0, 40.0)
    assert reached(lines, 0.95) == (None, None)


def test_what_is_written_about_a_table_stays_below_the_next():
    assert with_text_of("old\n\n## Read so\n\ntext\n", "new\n") == "new\n\n## Read so\n\ntext\n"
    assert with_text_of("", "new\n") == "new\n"
