"""``benchmarks/learning.py``: the configs that it trains, and what is read off a run."""

import pytest
from learning import CONFIG, ROOT, WAYS, changes_of, reached, with_table

from atlas_cli.config.load import load_config


@pytest.mark.parametrize("config", [CONFIG, "benchmarks/language.yaml"])
@pytest.mark.parametrize("way", WAYS)
def test_every_client_learns_so(way, config):
    specs = load_config(ROOT / config, changes_of(way, ROOT / config)).config.expanded_clients()
    assert {spec.learns for spec in specs} == {way.partition(",")[0]}
    assert all((spec.rank == 0) == (spec.learns == "frozen") and spec.device for spec in specs)


def line(number, group, score, metric, better):
    test = None if score is None else {metric: score}
    seconds = {"simulated_seconds": number, "simulated_joules": 10.0}
    return {"round": number, "task_group": group, "test": test, "metric": metric, "better": better, **seconds}


def lines(curve, metric, better):
    return [
        line(number, group, score, metric, better)
        for number, *both in curve
        for group, score in zip("ab", both, strict=True)
    ]


def test_target_is_of_the_mean_over_groups_at_the_first_evaluation_that_has_it():
    rounds = lines([(0, 0.9, 0.9), (1, None, None), (2, 0.8, 0.5), (3, 0.9, 0.7), (4, 0.2, 0.2)], "accuracy", "higher")
    assert reached(rounds, 0.6) == (3.0, 30.0)  # rounds 0 to 2, each once; what is there before training counts not
    assert reached(rounds, 0.8) == (6.0, 40.0)
    assert reached(rounds, 0.95) == (None, None)


def test_target_of_a_metric_that_is_better_the_lower_is_reached_from_above():
    rounds = lines([(0, 60.0, 80.0), (1, None, None), (2, 50.0, 40.0), (3, 30.0, 42.0)], "perplexity", "lower")
    assert reached(rounds, 45.0) == (3.0, 30.0)
    assert reached(rounds, 40.0) == (6.0, 40.0)
    assert reached(rounds, 35.0) == (None, None)


def test_a_table_takes_the_place_of_the_one_of_its_config_and_of_nothing_else():
    one = with_table("text\n", "a.yaml", "| 1 |\n")
    both = with_table(one, "b.yaml", "| 2 |\n") + "\n## Read so\n"
    assert with_table(both, "a.yaml", "| 3 |\n") == both.replace("| 1 |", "| 3 |")
    assert with_table(both, "b.yaml", "| 4 |\n") == both.replace("| 2 |", "| 4 |")
