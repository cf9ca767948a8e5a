"""Tiny runs of ``atlas train``: learnable data for every task type, and what every run directory must hold."""

import json
import random
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.schemas import KINDS, SCHEMAS
from atlas_cli.storage.folder_names import folder_names

FILLER = ["the", "a", "film", "movie", "game", "phone", "price", "city", "river", "was", "is", "and", "very", "not"]
TONE = {"pos": ["good", "great", "fine"], "neg": ["bad", "awful", "poor"]}


def sentences(draw, n):
    for i in range(n):
        label = ("pos", "neg")[i % 2]
        yield [*draw.choices(FILLER, k=draw.randint(3, 8)), draw.choice(TONE[label])], label


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def toy_config(model_folder, data, runs, task="sequence-classification", family=None, **changes):
    """The config of one group and three clients, as a dictionary."""
    default, file = TASKS[task]
    config = {
        "name": "toy",
        "device": "cpu",
        "threads": 1,
        "model": {"name": model_folder(family or default), "split_layer": 2},
        "task_groups": {"g": {"task": task, "data": {"files": str(data / file)}}},
        "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2, "count": 2}},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 4, "max_length": 32},
        "output": {"dir": str(runs)},
    }
    return nested(config, changes)


def write_data(folder):
    """Files of every task type: the tone of a sentence, cities in it, and so on."""
    draw = random.Random(0)
    for name, n in (("tone.csv", 80), ("tone_test.csv", 30)):
        lines = [f"{' '.join(words)},{label}" for words, label in sentences(draw, n)]
        (folder / name).write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    words = [words for words, _ in sentences(draw, 60)]
    (folder / "lines.txt").write_text("\n".join(" ".join(line) for line in words) + "\n", encoding="utf-8")
    places = ["paris" if i % 2 else "london" for i in range(60)]
    rows = list(zip(words, places, strict=True))
    jsonl(folder / "tags.jsonl", ({"tokens": [*w, p], "tags": ["O"] * len(w) + ["B-LOC"]} for w, p in rows))
    jsonl(
        folder / "questions.jsonl",
        (
            {
                "question": "what city",
                "context": " ".join([*w, p]),
                "answers": {"text": [p], "answer_start": [len(" ".join(w)) + 1]},
            }
            for w, p in rows
        ),
    )
    scored = (f"{' '.join(w)}\t{' '.join(w[::-1])}\t{len(w) / 2}\n" for w in words)
    (folder / "alike.tsv").write_text("".join(["text\ttext_pair\tlabel\n", *scored]), encoding="utf-8")
    jsonl(folder / "tell.jsonl", ({"prompt": " ".join(w), "response": f"it was {p}"} for w, p in rows))
    turns = (zip(("user", "assistant"), (" ".join(w), f"it was {p}"), strict=True) for w, p in rows)
    jsonl(folder / "talks.jsonl", ({"messages": [{"role": r, "content": text} for r, text in each]} for each in turns))
    jsonl(folder / "kinds.jsonl", ({"text": " ".join([*w, p]), "label": [p, "long"][: len(w) % 3]} for w, p in rows))
    asked = {"question": "what city", "choices": ["london", "paris"]}
    jsonl(folder / "choices.jsonl", ({**asked, "context": " ".join([*w, p]), "answer": p} for w, p in rows))


TASKS = {
    "sequence-classification": ("bert", "tone.csv"),
    "regression": ("bert", "alike.tsv"),
    "token-classification": ("distilbert", "tags.jsonl"),
    "question-answering": ("roberta", "questions.jsonl"),
    "causal-lm": ("gpt2", "lines.txt"),
    "instruction": ("qwen2", "tell.jsonl"),
    "chat": ("llama", "talks.jsonl"),
    "multi-label": ("bert", "kinds.jsonl"),
    "multiple-choice": ("bert", "choices.jsonl"),
}


def nested(base, changes):
    both = {k: nested(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **changes, **both}


def train(path, *overrides) -> RunDirectory:
    """Run the command here; the run directory that it made, after checking every file in it."""
    runs = Path(yaml.safe_load(Path(path).read_text(encoding="utf-8"))["output"]["dir"])
    before = set(runs.glob("*"))
    assert main(["train", str(path), *overrides]) == 0
    (made,) = set(runs.glob("*")) - before
    run = RunDirectory(made)
    check_files(run, load_config(path, overrides).config)
    return run


def check_files(run, config):
    """What every finished run must have, whatever it trained."""
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert {"config.yaml", "manifest.json", "log.txt", "report.html", *SCHEMAS} - {
        "clusters.jsonl",
        "labels.jsonl",
        "messages/index.jsonl",
    } <= names
    assert ("clusters.jsonl" in names) == (config.clustering is not None)
    assert not [name for name in names if ".partial" in name]
    manifest = run.read_json("manifest.json")
    assert (manifest["status"], manifest["error"], manifest["base_unchanged"]) == ("finished", None, True)
    assert load_config(run.path / "config.yaml").config == config
    groups = list(config.task_groups)
    metrics, clients = run.read_lines("metrics.jsonl"), run.read_lines("clients.jsonl")
    assert [(m["round"], m["task_group"]) for m in metrics] == [
        (r, g) for r in range(config.training.rounds + 1) for g in groups
    ]
    assert all(m["test"] for m in metrics if m["round"] in (0, config.training.rounds))
    names_of_clients = list(dict.fromkeys(c["client"] for c in clients))
    lines = [[c["client"] for c in clients if c["round"] == r] for r in range(config.training.rounds + 1)]
    assert lines[0] == lines[-1] == names_of_clients  # in between, of those that had a part in the round
    assert all([name for name in names_of_clients if name in each] == each for each in lines)
    messages = run.read_lines("messages.jsonl")
    assert all(m["kind"] in KINDS and m["payload_bytes"] == m["closed_form_bytes"] < m["bytes"] for m in messages)
    for m in metrics:
        mine = [c for c in clients if (c["round"], c["task_group"]) == (m["round"], m["task_group"])]
        for way in ("up", "down"):
            counted = [
                x["bytes"]
                for x in messages
                if (x["round"], x["direction"]) == (m["round"], way) and x["client"] in {c["client"] for c in mine}
            ]
            assert m[f"bytes_{way}"] == sum(counted) == sum(c[f"bytes_{way}"] for c in mine)
        assert m["examples"] == sum(c["examples"] for c in mine)
    frozen = {c.name for c in config.expanded_clients() if c.learns == "frozen"}  # have nothing to merge
    merging = {c.task_group for c in config.expanded_clients() if c.name not in frozen}
    for number in range(1, config.training.rounds + 1):
        shares = {}
        parts = [c for c in clients if c["round"] == number and c["participated"]]
        assert {c["client"] for c in parts if c["weight"] is None} == {c["client"] for c in parts} & frozen
        for c in (c for c in parts if c["client"] not in frozen):
            merged_with = c["cluster"] or c["task_group"]
            shares[merged_with] = shares.get(merged_with, 0) + c["weight"]
        assert all(total == pytest.approx(1) for total in shares.values())
        assert shares.keys() >= merging or config.clustering is not None
    assert manifest["privacy"]["epsilon"] == {m["task_group"]: m["epsilon"] for m in metrics[-len(groups) :]}
    check_counts(metrics, clients, manifest["data"])
    memory = run.read_json("memory.json")
    assert (memory["server"] is None) == (config.mode != "split-federated")
    for folder in folder_names(names_of_clients).values():
        assert (run.path / "adapters" / "clients" / folder / "adapter_model.safetensors").is_file()
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "None" not in html
    assert "<svg" in html or "data:image" in html
    assert 'src="http' not in html and "<script src" not in html


def check_counts(metrics, clients, data):
    """Counts are those that the metric beside them was computed of; labels of clients are those of training rows."""
    for m in (m for m in metrics if m.get("test_by_class")):
        right, labels, predicted = (
            sum(counts[key] for counts in m["test_by_class"].values()) for key in ("right", "labels", "predicted")
        )
        if "accuracy" in m["test"]:
            assert labels == predicted == m["test_trials"]["accuracy"] == data[m["task_group"]]["test"]
            assert m["test"]["accuracy"] == pytest.approx(right / labels)
        else:
            f1 = m["test"].get("entity_f1", m["test"].get("micro_f1"))
            assert f1 == pytest.approx(2 * right / max(labels + predicted, 1))
    for group, facts in data.items():
        dealt = [c["labels"] for c in clients if c["round"] == 0 and c["task_group"] == group and "labels" in c]
        assert bool(dealt) == bool(facts["classes"])
        if dealt and any(m["task_group"] == group and "accuracy" in m["test"] for m in metrics):
            assert sum(sum(labels.values()) for labels in dealt) == facts["train"]


def kinds(run, first_round=1):
    return {m["kind"] for m in run.read_lines("messages.jsonl") if m["round"] >= first_round}


def trained_parameters(run, client):
    folder = run.path / "adapters" / "clients" / client
    files = [folder / "adapter_model.safetensors", folder / "head.safetensors"]
    return sum(t.numel() for file in files if file.exists() for t in load_file(file).values())
