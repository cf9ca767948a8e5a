"""Regression: a number for a text; figures as scipy and scikit-learn have them, and defined where those are not."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error

from atlas_cli import tasks
from atlas_cli.data.task_fields import canonical
from atlas_cli.errors import ConfigError

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, 2.5])


def figures(predictions, labels, size=None):
    task = tasks.build("regression")
    metric, size = task.metric(), size or len(labels)
    features = [{"input_ids": [1], "labels": label} for label in labels]
    for start in range(0, len(labels), size):
        part = features[start : start + size]
        logits = torch.tensor(predictions[start : start + size]).unsqueeze(-1)
        metric.update(logits, task.label_tensor(part, 1), part)
    return task.scores(metric)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30), st.integers(1, 30))
def test_figures_are_those_of_scipy_and_scikit_learn(pairs, size):
    predictions, labels = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    found = figures(predictions.tolist(), labels.tolist(), size)
    wide = predictions.astype(float), labels.astype(float)
    assert found["rmse"] == pytest.approx(mean_squared_error(*wide) ** 0.5, rel=1e-9)
    assert found["loss"] == pytest.approx(mean_squared_error(*wide), rel=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(*wide), rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy says that a correlation with a constant is not defined
        pearson, spearman = stats.pearsonr(*wide).statistic, stats.spearmanr(*wide).statistic
    if len(set(wide[0])) == 1 or len(set(wide[1])) == 1:
        assert found["pearson"] == found["spearman"] == 0
    else:
        assert found["spearman"] == pytest.approx(spearman, abs=1e-9)
        assert found["pearson"] == pytest.approx(pearson, abs=1e-6)


def test_correlations_by_hand():
    found = figures([1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0])
    assert found["spearman"] == pytest.approx(0.8)
    assert figures([4.0, 2.0], [1.0, 2.0])["pearson"] == pytest.approx(-1)
    ties = figures([1.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    assert ties["spearman"] == pytest.approx(3**0.5 / 2)


@pytest.mark.parametrize(
    ("predictions", "labels"), [([0.1] * 3, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [0.1] * 3), ([2.0], [3.0])]
)
def test_a_correlation_that_is_not_defined_is_zero(predictions, labels):
    found = figures(predictions, labels)
    assert found["pearson"] == found["spearman"] == 0
    assert found["rmse"] > 0


def test_labels_are_numbers(bert):
    task = tasks.build("regression")
    (feature,) = task.encode({"text": "who is", "text_pair": "paris", "label": 2.5}, bert, 16)
    assert feature["labels"] == 2.5 and feature["token_type_ids"]
    assert json.loads(json.dumps(feature)) == feature
    labels = task.label_tensor([feature, {**feature, "labels": 3.0}], 8)
    assert labels.dtype == torch.float32 and labels.tolist() == [2.5, 3.0]
    loss, count = task.loss(torch.tensor([[2.0], [4.0]]), labels)
    assert loss.item() == pytest.approx((0.25 + 1) / 2) and count == 2
    assert task.label_text(feature) == "-> 2.5"
    assert task.label_summary([{"label": 0.0}, {"label": 5.0}, {"label": 3.2}]) == "0 to 5, mean 2.73"
    assert task.weight([feature, feature]) == 2


@pytest.mark.parametrize(("value", "number"), [("4.75", 4.75), (" 3 ", 3.0), (2, 2.0), ("-1e-1", -0.1)])
def test_a_number_may_be_written_as_text(value, number):
    task = type(tasks.build("regression"))
    ((row),) = canonical([{"text": "a", "score": value}], {"text": "text", "label": "score"}, task, "test data", "k")
    assert row["label"] == number and isinstance(row["label"], float)


@pytest.mark.parametrize("value", ["high", "nan", "inf", True, [1.0], "1_0", "1,5", 10**400])
def test_what_is_no_number_is_named_with_its_row(value):
    task = type(tasks.build("regression"))
    with pytest.raises(ConfigError) as caught:
        canonical([{"text": "a", "label": value}], {"text": "text", "label": "label"}, task, "training data", "k")
    assert str(caught.value).startswith("k.label: row 1 of the training data, column 'label' holds ")
    hint = " with a point, such as 3.5" if value == "1,5" else ""
    assert str(caught.value).endswith(f", expected a finite number{hint}")


def test_a_row_without_a_number_is_refused():
    with pytest.raises(ConfigError, match="column 'label' is empty"):
        task = type(tasks.build("regression"))
        canonical([{"text": "a", "label": " "}], {"text": "text", "label": "label"}, task, "training data", "k")
