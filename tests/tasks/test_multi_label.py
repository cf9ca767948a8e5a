"""Multi-label classification: any classes or none for a text; figures as scikit-learn has them."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics
from torch.nn.functional import binary_cross_entropy_with_logits

from atlas_cli import tasks
from atlas_cli.config.schema.experiment import TaskGroupConfig
from atlas_cli.data import read
from atlas_cli.errors import ConfigError
from atlas_cli.tasks import multi_label
from atlas_cli.testing.tasks import conformance

CLASSES = ["art", "food", "place"]
WORDS = {"painting": "art", "bread": "food", "city": "place"}
ROWS = [
    {"text": f"the {a} and {b}", "label": sorted({WORDS[w] for w in (a, b) if w in WORDS})}
    for a in (*WORDS, "idea")
    for b in ("bread", "thought")
]
TestMultiLabel = conformance(multi_label.Task, ROWS, CLASSES)

TABLES = st.tuples(st.integers(1, 12), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=st.sampled_from([-3.0, -0.5, 0.0, 0.25, 0.5, 2.0])), arrays(bool, shape)
    )
)


def figures(scores, true, size=None):
    task = tasks.build("multi-label", [f"c{i}" for i in range(true.shape[1])])
    metric, size = task.metric(), size or len(true)
    features = [{"input_ids": [1], "labels": np.flatnonzero(row).tolist()} for row in true]
    for start in range(0, len(true), size):
        part = features[start : start + size]
        metric.update(torch.tensor(scores[start : start + size]), task.label_tensor(part, 1), part)
    return task.scores(metric), metric


@given(TABLES, st.integers(1, 12))
@settings(deadline=None)
def test_figures_are_those_of_scikit_learn(table, size):
    scores, true = table
    found, metric = figures(scores, true, size)
    said = scores > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a table of one column is, to scikit-learn, no multi-label one
        if true.shape[1] > 1:
            for average in ("micro", "macro"):
                expected = metrics.f1_score(true, said, average=average, zero_division=0)
                assert found[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
            expected = metrics.label_ranking_average_precision_score(true, scores)
            assert found["lrap"] == pytest.approx(expected, abs=1e-12)
        assert found["subset_accuracy"] == pytest.approx((true == said).all(1).mean())
    loss = binary_cross_entropy_with_logits(torch.tensor(scores), torch.tensor(true).float())
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metric.trials() == {"subset_accuracy": len(true)}
    for name, counts in metric.by_class().items():
        of_class = true[:, int(name[1:])], said[:, int(name[1:])]
        right = (of_class[0] & of_class[1]).sum()
        assert counts == {"labels": of_class[0].sum(), "predicted": of_class[1].sum(), "right": right}


def test_labels_and_predictions(bert):
    task = tasks.build("multi-label", CLASSES)
    one, none = (
        task.encode({"text": "paris", "text_pair": "john", "label": label}, bert, 16)[0]
        for label in (["place", "art", "place"], [])
    )
    assert one["token_type_ids"] and json.loads(json.dumps(one)) == one
    assert task.label_tensor([one, none], 8).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert [task.label_text(feature) for feature in (one, none)] == ["-> art, place", "-> (none)"]
    found = task.predictions(torch.tensor([[2.0, -1.0, 0.5], [0.0, -1.0, -1.0]]), [one, none])
    assert [each["labels"] for each in found] == [["art", "place"], []]  # 0.5 itself is not above 0.5
    assert found[1]["scores"] == pytest.approx([0.5, 0.2689, 0.2689], abs=1e-4)
    with pytest.raises(ConfigError, match="'sport' is not among the classes"):
        task.encode({"text": "paris", "label": ["sport"]}, bert, 16)


def group(tmp_path, text, suffix="csv", classes=None, **data):
    file = tmp_path / f"rows.{suffix}"
    file.write_text(text, encoding="utf-8")
    found = read.read_group(
        "g", TaskGroupConfig(task="multi-label", classes=classes, data={"files": str(file), **data}), 0
    )
    return found.classes, {row["text"]: row["label"] for row in (*found.train, *found.test)}


def test_every_way_to_write_several_classes_gives_the_same_rows(tmp_path):
    labels = {f"text {i}": [["fine art", "food"], ["food"], []][i % 3] for i in range(12)}
    expected = ["fine art", "food"], labels
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in labels.items())
    assert group(tmp_path, lines, "jsonl") == expected
    for bar, option in (("|", {}), (";", {"label_separator": ";"})):
        table = "".join(f"{text},{bar.join(label)}\n" for text, label in labels.items())
        assert group(tmp_path, f"text,label\n{table}", **option) == expected
    table = "".join(f"{text},{int('fine art' in label)},{int('food' in label)},0\n" for text, label in labels.items())
    names = ["fine art", "food", "sport"]
    found = group(tmp_path, f"text,fine art,food,sport\n{table}", label=names)
    assert found == (names, labels)  # also a class of which there is no row


@pytest.mark.parametrize(
    ("text", "data", "says"),
    [
        (
            "text,label\na,x;y\nb,x\n",
            {},
            "label_separator: no cell of column 'label' has classes between '|', and some",
        ),
        ("text,label\na,\nb,\nc,\n", {}, "no training row has a label; at least 2 classes are needed"),
        ("text,x,y\na,0,1\nb,yes,0\n", {"label": ["x", "y"]}, "row 2 of the training data, column 'x' holds 'yes'"),
        ("text,x,y\na,0,1\n", {"label": ["x", "z"]}, "row 1 of the training data has no column 'z'"),
        ("text,label\na,\"['x', 'y']\"\n", {"label_separator": ","}, "use JSONL or Parquet, or classes between ','"),
        ("text,label\na,x||y\n", {}, "holds an empty item"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, data, says):
    with pytest.raises(ConfigError) as caught:
        group(tmp_path, text, **data)
    assert says in str(caught.value)


def test_several_classes_are_refused_for_a_task_of_one(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,x,y\na,0,1\nb,1,0\n", encoding="utf-8")
    config = TaskGroupConfig(task="sequence-classification", data={"files": str(file), "label": ["x", "y"]})
    with pytest.raises(ConfigError, match=r"data\.label: is for tasks of several classes a row \(multi-label\)"):
        read.read_group("g", config, 0)
