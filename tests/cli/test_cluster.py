"""``atlas cluster`` on two tasks that want opposite things of the same words."""

import json
import random

import pytest
from support.toy_runs import sentences

from atlas_cli.cli import main


@pytest.fixture
def two_tasks(config_file, tmp_path):
    """A config of two groups that want opposite things of the same words: nearly all positive, and the reverse."""
    drawn = [(" ".join(words), label) for words, label in sentences(random.Random(0), 400)]
    rows = [(text, label) for i, (text, label) in enumerate(drawn) if label == "pos" or i % 8 == 1]
    groups = {}
    for name, labels in (("g", {"pos": "pos", "neg": "neg"}), ("h", {"pos": "neg", "neg": "pos"})):
        file = tmp_path / f"{name}.csv"
        file.write_text("text,label\n" + "".join(f"{text},{labels[label]}\n" for text, label in rows), encoding="utf-8")
        groups[name] = {"task": "sequence-classification", "classes": ["neg", "pos"], "data": {"files": str(file)}}
    clients = {"d": {"task_group": "h", "rank": 2, "count": 5}}
    return config_file(task_groups=groups, clients=clients, training={"batch_size": 16})


@pytest.mark.slow
def test_tasks_are_told_apart(two_tasks, tmp_path, capsys):
    assert (
        main(["cluster", str(two_tasks), "--json", "--k", "2", "--batches", "8", "--output", str(tmp_path / "out")])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["agreement"]["ari"] > found["agreement"]["shuffled_ari"]
    assert found["k"] == 2 and found["agreement"]["ari"] == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"clusters.json", "similarity.png", "similarity.svg"}
    assert main(["cluster", str(two_tasks)]) == 0
    shown = capsys.readouterr().out
    assert "silhouette by k" in shown and "ARI" in shown and "MB up" in shown


def test_more_clusters_than_clients(config_file, capsys):
    assert main(["cluster", str(config_file()), "--k", "9"]) == 2
    assert "9 clusters cannot be made of 3 clients" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused_before_anything_is_loaded(config_file, monkeypatch, capsys):
    monkeypatch.setattr("atlas_cli.federation.build.build", None)
    path = str(config_file())
    assert main(["cluster", path, "--output", path]) == 1
    assert capsys.readouterr().err == f"error: {path} cannot be written: it is a file; choose another --output\n"
