"""Tables of a sweep: figures over seeds, and what is said of runs that are not alike."""

from types import SimpleNamespace

from support.made_up_run import VALUES, metrics_record

from atlas_cli.cli._tables.sweep import cautions, over_seeds, sweep_record
from atlas_cli.reports.summary import summarise
from atlas_cli.sweeps.trial import Outcome


def sweep(test_parts, last=VALUES["prose"][-1]):
    """Finished runs of seeds 0, 1, ... on test parts of (size, hash); ``last`` is the first's figure in the end."""
    rows = []
    for seed, (size, sha256) in enumerate(test_parts):
        trial = SimpleNamespace(number=seed + 1, combination=SimpleNamespace(values={"seed": str(seed)}))
        values = [*VALUES["prose"][:-1], VALUES["prose"][-1] if seed else last]
        records = [metrics_record("prose", i, test={"perplexity": value}) for i, value in enumerate(values)]
        data = {"prose": {"train": 10, "test": size, "test_sha256": sha256}}
        rows.append((trial, Outcome(seed + 1, "finished", groups=tuple(summarise(records, [], data)))))
    return rows


def test_means_over_different_test_parts_are_said_to_be():
    rows = sweep([(7, "a"), (10, "b"), (9, "b")])
    lowest, said = cautions(rows)
    assert said == "prose: 2 different test parts, of 7 to 10 examples; data_seed=N gives all runs one"
    (figures,) = over_seeds(rows)[0][2].values()
    assert (figures.n, figures.test_parts, figures.test_examples) == (3, 2, [7, 10])
    assert "2 different test parts, of 8 examples" in cautions(sweep([(8, "a"), (8, "b")]))[1], "equal in size alone"
    assert cautions(sweep([(8, "a"), (8, "a")])) == [lowest] == ["best: the lowest perplexity"]


def test_a_sweep_says_which_way_a_metric_is_better():
    rows = sweep([(8, "a"), (8, "a")])
    record = sweep_record(rows)
    assert record["over_seeds"][0]["task_groups"]["prose"]["better"] == "lower"
    group = record["runs"][0]["task_groups"]["prose"]
    assert (group["better"], group["best"], group["best_round"]) == ("lower", 40.0, 2)


def test_a_run_without_a_finite_figure_is_not_left_out_in_silence():
    rows = sweep([(8, "a"), (8, "a"), (8, "a")], last=None)
    assert cautions(rows)[1:] == ["prose: runs whose figure is no finite number are in no mean: 1 of 3"]
    (figures,) = over_seeds(rows)[0][2].values()
    assert (figures.n, figures.mean) == (2, 41.0)
