import io

import pytest
from support.made_up_run import CLIENTS, GROUPS, VALUES, client_record, metrics_record

from atlas_cli.reports.summary import summarise
from atlas_cli.reports.tables import HEADINGS, cells, final_table
from atlas_cli.reports.terminal import Terminal
from atlas_cli.units import format_bytes_mb, format_bytes_mib, format_number, format_seconds

METRICS = [metrics_record(group, round_) for round_ in range(4) for group in GROUPS]
RECORDS = [client_record(client, group, 1) for client, group in CLIENTS.items()]


def test_summary_of_a_metric_that_grows_and_one_that_falls():
    questions, spam, prose = summarise(METRICS, RECORDS, {"spam": {"train": 800, "test": 200}})
    assert (questions.before, questions.after, questions.best, questions.best_round) == (0.167, 0.7, 0.75, 2)
    assert (prose.metric, prose.before, prose.best, prose.best_round) == ("perplexity", 1234.5, 40.0, 2)
    assert (spam.clients, spam.train, spam.test) == (2, 800, 200)
    assert questions.train is None
    assert questions.loss == 0.5
    assert (spam.bytes_up, spam.bytes_down, spam.seconds) == (3_600_000, 48_300_000, 20.0)


@pytest.mark.parametrize(("seconds", "shown"), [(0.113, "0.226"), (1.2345, "2.47"), (7.3, "15"), (2500.0, "5,000")])
def test_a_short_time_is_not_shown_as_none(seconds, shown):
    rows = [metrics_record("spam", round_, seconds=seconds) for round_ in (1, 2)]
    assert cells(summarise(rows, [])[0])[HEADINGS.index("time, s")] == shown


def test_rounds_without_evaluation_are_passed_over():
    rows = [metrics_record("spam", 0), metrics_record("spam", 1), metrics_record("spam", 2, test={})]
    (spam,) = summarise(rows, [])
    assert (spam.after, spam.best_round) == (0.9, 1)


def test_a_metric_that_is_no_number_after_the_last_round_is_not_that_of_an_earlier_one():
    test = {"perplexity": None, "loss": None}
    (prose,) = summarise(
        [metrics_record("prose", 0), metrics_record("prose", 1), metrics_record("prose", 2, test=test)], []
    )
    assert (prose.before, prose.after, prose.best, prose.best_round) == (1234.5, None, 80.0, 1)


def test_an_unevaluated_group_has_no_metric():
    (spam,) = summarise([metrics_record("spam", 1, test={})], [])
    assert (spam.metric, spam.before, spam.after, spam.best) == (None, None, None, None)


def test_the_best_round_goes_by_the_direction_that_the_task_declares():
    for metric, better, best in (("mean_distance", "lower", (0.85, 0)), ("low_error", "higher", (0.97, 3))):
        test = [{"a_loss": 1.0, metric: value} for value in VALUES["spam"]]
        rows = [metrics_record("spam", i, test=each, metric=metric, better=better) for i, each in enumerate(test)]
        (spam,) = summarise(rows, [])
        assert (spam.metric, spam.better) == (metric, better) and (spam.best, spam.best_round) == best
        out = io.StringIO()
        Terminal(file=out, width=160).print(final_table(rows, []))
        assert ("best: the lowest mean_distance" in out.getvalue()) == (better == "lower")


def test_a_record_that_names_no_direction_has_no_best_round():
    (spam,) = summarise([metrics_record("spam", 0, better=None)], [])
    assert (spam.metric, spam.after, spam.best, spam.best_round) == ("accuracy", 0.85, None, None)


def test_means_over_models_and_losses_of_earlier_rounds_are_said_to_be():
    rows = [metrics_record("spam", 1, models=3), metrics_record("spam", 2, models=3, train_loss=None)]
    out = io.StringIO()
    Terminal(file=out, width=160).print(final_table([*rows, metrics_record("prose", 1)], []))
    assert "metric is the plain mean over clients in spam (of 3 models)" in " ".join(out.getvalue().split())
    (line,) = [line for line in out.getvalue().splitlines() if line.startswith("spam ")]
    assert "1.000 (1)" in line, "the loss is that of round 1"


def test_final_table_says_which_megabyte():
    out = io.StringIO()
    Terminal(file=out, width=160).print(final_table(METRICS, RECORDS, {"spam": {"train": 1800, "test": 200}}, 160))
    line = next(line for line in out.getvalue().splitlines() if "spam" in line)
    assert line.split() == [
        *("spam", "2", "1,800", "200", "accuracy", "0.850", "0.970", "0.970", "(3)"),
        *("0.500", "0.2", "3.60", "48.3", "20"),
    ]
    assert "MB: 1,000,000 bytes" in out.getvalue()


def test_final_table_without_sizes_fits_a_terminal():
    out = io.StringIO()
    Terminal(file=out, width=80).print(final_table(METRICS, RECORDS))
    line = next(line for line in out.getvalue().splitlines() if "prose" in line)
    tail = ["0.500", "0.2", "3.60", "48.3", "20"]
    assert line.split() == ["prose", "perplexity", "1,234", "41.000", "40.000", "(2)", *tail]


def test_units_are_not_confused():
    assert format_bytes_mb(1_000_000) == "1.00 MB"
    assert format_bytes_mib(2**20) == "1.00 MiB"
    assert format_bytes_mib(1_000_000) == "0.954 MiB"
    assert [format_bytes_mb(n) for n in (0, 12, 12_345, 45_600_000, 1_234_000_000)] == [
        *("0 MB", "<0.001 MB", "0.012 MB", "45.6 MB", "1,234 MB")
    ]
    assert [format_number(x) for x in (None, 0.12345, 25000.4)] == ["n/a", "0.123", "25,000"]
    assert [format_seconds(s) for s in (0, 0.00012345, 0.248, 9.6, 48.4, 185, 7620)] == [
        *("0 s", "0.000123 s", "0.248 s", "9.6 s", "48 s", "3 min 05 s", "2 h 07 min")
    ]
