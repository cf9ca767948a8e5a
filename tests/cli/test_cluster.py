"""``atlas cluster`` on two tasks that want opposite things of the same words."""

import csv
import json

import pytest

from atlas_cli.cli import main


@pytest.fixture
def two_tasks(config_file, data, tmp_path):
    """A config of two groups that want opposite things of the same words: nearly all positive, and the reverse."""
    rows = list(csv.DictReader((data / "tone.csv").read_text().splitlines()))
    rows = [row for i, row in enumerate(rows) if row["label"] == "pos" or i % 8 == 1]
    groups = {}
    for name, labels in (("g", {"pos": "pos", "neg": "neg"}), ("h", {"pos": "neg", "neg": "pos"})):
        file = tmp_path / f"{name}.csv"
        file.write_text("text,label\n" + "".join(f"{row['text']},{labels[row['label']]}\n" for row in rows))
        groups[name] = {"task": "sequence-classification", "classes": ["neg", "pos"], "data": {"files": str(file)}}
    clients = {"d": {"task_group": "h", "rank": 2, "count": 5}}
    return config_file(task_groups=groups, clients=clients, training={"batch_size": 16})


def test_tasks_are_told_apart(two_tasks, tmp_path, capsys):
    assert main(["cluster", str(two_tasks), "--json", "--batches", "8", "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agreement"]["ari"] > found["agreement"]["shuffled_ari"]
    assert found["k"] == 2 and found["agreement"]["ari"] == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"clusters.json", "similarity.png", "similarity.svg"}
    assert main(["cluster", str(two_tasks), "--k", "3"]) == 0
    shown = capsys.readouterr().out
    assert "silhouette by k" in shown and "ARI" in shown and "MB up" in shown


def test_more_clusters_than_clients(config_file, capsys):
    assert main(["cluster", str(config_file()), "--k", "9"]) == 2
    assert "9 clusters cannot be made of 3 clients" in capsys.readouterr().err
