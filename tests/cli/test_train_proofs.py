"""What a run claims, checked from outside: it learns, stock PEFT agrees, equal runs are equal."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from support.slow import slow
from support.toy_runs import train
from transformers import AutoModel, AutoTokenizer

from atlas_cli.config.load import load_config
from atlas_cli.runs.directory import RunDirectory


def test_it_learns(config_file):
    """Accuracy on held-out sentences from chance to all; the client half has to carry the tone to the last token."""
    opt = {"lr": 0.005}
    training = {"rounds": 5, "local_steps": 8, "client_optimizer": opt, "server_optimizer": opt}
    metrics = train(config_file(family="gpt2", training=training)).read_lines("metrics.jsonl")
    assert metrics[5]["train_loss"] < 0.5 * metrics[1]["train_loss"]
    assert metrics[0]["test"]["accuracy"] < 0.8 < 0.9 <= metrics[3]["test"]["accuracy"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own use of transformers
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("gpt2", {"aggregation": {"method": "flora"}}),
        *slow(
            ("gpt2", {"mode": "federated"}),
            ("bert", {"mode": "federated", "aggregation": {"method": "fedex"}}),
            ("bert", {"clients": {"a": {"split_layer": 1}, "b": {"split_layer": 3}}}),
        ),
    ],
    ids=str,
)
def test_stock_peft_gives_the_reported_test_loss(config_file, data, family, changes):
    """The exported adapter and head, in transformers and peft alone, on the test file: the last line of metrics."""
    from peft import PeftModel

    tone = {"files": str(data / "tone.csv"), "test_files": str(data / "tone_test.csv")}
    opt = {"lr": 0.02}
    path = config_file(
        family=family,
        task_groups={"g": {"data": tone}},
        training={"local_steps": 6, "client_optimizer": opt, "server_optimizer": opt},
        **changes,
    )
    run = train(path)
    model_name = load_config(path).config.model.name
    base = AutoModel.from_pretrained(model_name)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    facts = run.read_json("manifest.json")["data"]["g"]
    classes = facts["classes"]
    assert facts["test"] == 30
    losses = {}
    for name in ("plain", "adapted"):
        folder = run.path / "adapters" / "groups" / "g"
        model = PeftModel.from_pretrained(base, str(folder)).eval() if name == "adapted" else base.eval()
        head = load_file(folder / "head.safetensors")
        total = 0.0
        rows = [line.split(",") for line in (data / "tone_test.csv").read_text(encoding="utf-8").splitlines()[1:]]
        for text, label in rows:
            with torch.no_grad():
                hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
            pooled = hidden[0, -1] if family == "gpt2" else hidden[0].mean(0)
            logits = head["classifier.weight"] @ pooled + head["classifier.bias"]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(classes.index(label))).item()
        losses[name] = total / len(rows)
    reported = run.read_lines("metrics.jsonl")[-1]["test"]["loss"]
    assert losses["adapted"] == pytest.approx(reported, abs=1e-5)
    assert abs(losses["plain"] - reported) > 1e-3


def subprocess_train(path, *overrides):
    command = [sys.executable, "-c", "from atlas_cli.cli import main; raise SystemExit(main())", "train", str(path)]
    environment = {**os.environ, "PYTHONHASHSEED": "random", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*command, *overrides], capture_output=True, text=True, timeout=300, env=environment)


def comparable(run):
    """All files by name, without times and what else may differ between two equal runs."""
    files = {}
    for path in sorted(p for p in run.path.rglob("*") if p.is_file()):
        name = str(path.relative_to(run.path))
        if name == "metrics.jsonl":
            timed = ("seconds", "samples_per_second")
            files[name] = [{k: v for k, v in m.items() if k not in timed} for m in run.read_lines(name)]
        elif path.match("round-*/manifest.json"):
            listed = json.loads(path.read_text(encoding="utf-8"))["files"]
            files[name] = {file: facts for file, facts in listed.items() if file != "records.json"}
        elif name not in ("manifest.json", "log.txt", "report.html", "sums.jsonl") and path.name != "records.json":
            files[name] = path.read_bytes()  # sums and hashes of lines are of their seconds, too
    return files


@pytest.mark.slow
def test_two_runs_are_equal_bit_for_bit_and_another_seed_is_not(config_file, tmp_path):
    """One run in a process of its own, with another hash seed, and one here; dropout on, not all clients at a time."""
    training = {"cohort": 0.67, "server_update": "sequential", "rounds": 3}
    path = config_file(lora={"dropout": 0.2}, training=training)
    done = subprocess_train(path)
    assert done.returncode == 0, done.stderr
    (first,) = (tmp_path / "runs").glob("*")
    assert "report.html" in done.stdout and "round 3/3" in done.stdout
    torch.manual_seed(99)  # the state of the global generator is of no account
    second = train(path)
    one, two = comparable(RunDirectory(first)), comparable(second)
    assert one.keys() == two.keys()
    assert {name for name in one if one[name] != two[name]} == set()
    third = comparable(train(path, "seed=1"))
    differing = {name for name in one if one[name] != third[name]}
    assert {"metrics.jsonl", "clients.jsonl", "adapters/groups/g/adapter_model.safetensors"} <= differing
