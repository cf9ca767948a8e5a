"""Which figures of a run have an interval."""

import pytest
from support.made_up_run import metrics_record

from atlas_cli.reports.page.intervals import interval


def test_only_shares_of_one_model_have_an_interval():
    assert interval(metrics_record("spam", 3), "accuracy") == pytest.approx((0.936, 0.986), abs=1e-3)
    assert interval(metrics_record("spam", 3), "loss") is None
    assert interval(metrics_record("prose", 3), "perplexity") is None
    several = {key: value for key, value in metrics_record("spam", 3).items() if key != "test_trials"}
    assert interval(several, "accuracy") is None
