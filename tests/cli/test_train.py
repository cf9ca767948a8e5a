"""``atlas train`` from a config file to a run directory, in every mode and task type, on tiny models."""

import math
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from support.slow import slow
from support.tape import Tape
from support.toy_runs import TASKS, kinds, train, trained_parameters

from atlas_cli.config.load import load_config
from atlas_cli.config.schema.task_groups import DataConfig
from atlas_cli.experiment.allocation import device_fit as fitting
from atlas_cli.experiment.manifest_facts import licence_facts
from atlas_cli.federation import build as building
from atlas_cli.federation import loaded_experiment
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses
from atlas_cli.models.frozen import kernel_order as prepacked
from atlas_cli.models.frozen.compile_blocks import compile_blocks
from atlas_cli.models.frozen.kernel_order import available


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        ("split-federated", {"activations", "gradients", "adapters"}),
        ("federated", {"adapters", "head"}),
        ("local-only", set()),
        ("centralized", set()),
    ],
)
def test_modes(config_file, mode, sent):
    run = train(config_file(mode=mode, audit={"record": {"rounds": [1]}}))
    assert kinds(run) == sent
    assert run.read_json("manifest.json")["recording"]["complete"]
    last = [c for c in run.read_lines("clients.jsonl") if c["round"] == 2]
    names = ["g-pooled"] if mode == "centralized" else ["a", "b-1", "b-2"]
    assert [c["client"] for c in last] == names
    # rank 4 (or 2) below the cut, the server's 2 above it: query and value, 32 to 32, two layers each; and a head
    counts = {4: 4 * 4 * 64 + 4 * 2 * 64 + 66, 2: 4 * 2 * 64 + 4 * 2 * 64 + 66}
    expected = [counts[4]] if mode == "centralized" else [counts[4], counts[2], counts[2]]
    assert [trained_parameters(run, name) for name in names] == expected
    shared = mode in ("split-federated", "federated")
    assert (run.path / "adapters" / "groups" / "g").exists() == shared
    assert all((c["held_sha256"] == c["delivered_sha256"]) == shared for c in last)
    errors = [m["aggregation_error"] for m in run.read_lines("metrics.jsonl")]
    assert (errors[2] is not None) == shared
    # two steps of 4 (of 12 pooled); the smaller last batch of an epoch of b-1 and b-2 falls in this round
    assert [c["examples"] for c in last] == ([24] if mode == "centralized" else [8, 7, 7])
    verify = run.read_json("manifest.json")["verify"]
    assert bool(verify) == (mode == "split-federated") and all(check["passed"] for check in verify.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("instruction", "server"),
        ("token-classification", "client"),
        *((task, "server") for task in TASKS if task != "instruction"),
        ("sequence-classification", "client"),
        ("causal-lm", "client"),
    ],
)
def test_task_types(config_file, task, labels):
    run = train(config_file(task, training={"labels": labels, "rounds": 1}))
    wanted = {"activations", "gradients", "adapters"}
    if labels == "client":
        trains_head = task not in ("causal-lm", "instruction")
        wanted |= {"features", "feature-gradients"} | ({"head"} if trains_head else set())
    assert kinds(run) == wanted
    metrics = run.read_lines("metrics.jsonl")
    assert all(math.isfinite(value) for m in metrics for value in m["test"].values())


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": {"method": "none"}},
        {"training": {"cohort": 0.5, "rounds": 3}, "evaluation": {"every": 2}},
        *slow(
            {"partition": {"local_test": 0.0}},
            {"training": {"server_update": "per-client", "schedule": {"name": "cosine", "warmup": 0.3}}},
            {"training": {"autocast": "bfloat16"}},
            {"model": {"dtype": "bfloat16"}},
            {"training": {"server_update": "sequential", "labels": "client"}},
            {"lora": {"dropout": 0.3, "rslora": True}, "clients": {"a": {"rank": {0: 3}}}},
            {"model": {"split_layer": 4}, "server": {"rank": 0}},
            {
                "model": {"split_layer": 1},
                "training": {"client_optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
            },
            {"server": {"rank": 0}, "training": {"labels": "client", "server_update": "per-client"}},
        ),
    ],
    ids=lambda changes: ",".join(f"{k}.{n}" for k, v in changes.items() for n in v),
)
def test_options(config_file, changes):
    run = train(config_file(**changes))
    clients, metrics = run.read_lines("clients.jsonl"), run.read_lines("metrics.jsonl")
    if "aggregation" in changes:
        assert kinds(run) == {"activations", "gradients"}
        assert len({c["held_sha256"] for c in clients if c["round"] == 2}) == 3
    if changes.get("training", {}).get("cohort"):
        assert [sum(c["participated"] for c in clients if c["round"] == r) for r in range(4)] == [0, 2, 2, 2]
        assert [bool(m["test"]) for m in metrics] == [True, False, True, True]
        out = [c for c in clients if c["round"] and not c["participated"]]
        assert out and {c["round"] for c in out} <= {2, 3}  # absent ones have a line where their local test is scored
        assert all(c["train_loss"] is None and c["weight"] is None and c["steps"] == 0 for c in out)
        versions = {c["held_sha256"] for c in clients if c["round"] == 3}
        assert len(versions) == 2  # at the end all hold the last version: two of rank 2, one of rank 4
    if "partition" in changes:
        assert all(c["local_test"] is None for c in clients)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "times", "warned"),
    [
        ("clients.a.dtype", 31, True),
        ("training.autocast", 31, True),
        ("model.dtype", 31, True),
        ("model.dtype", 1, False),
    ],
)
def test_emulated_bfloat16_is_warned_of(key, times, warned, config_file, monkeypatch, capsys):
    monkeypatch.setattr(fitting, "bfloat16_slowdown", lambda: times)
    train(config_file(training={"rounds": 1, "local_steps": 1}), f"{key}=bfloat16")
    text = f"warning: bfloat16 ({key}) is {times} times slower than float32 on this CPU"
    assert (text in capsys.readouterr().out) == warned


@pytest.mark.slow
def test_what_the_virtual_clock_takes_for_granted_is_said_and_kept(config_file, capsys):
    devices = {"d": {"memory": "1 GiB", "compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s"}}
    path = config_file(devices=devices, clients={name: {"device": "d"} for name in "ab"})
    run = train(path, "training.rounds=1", "training.local_steps=1")
    clock = run.read_json("manifest.json")["virtual_clock"]
    assert clock["server"]["device"] == "workstation-gpu-16gib"
    assert clock["server_assumed"] is True
    assert clock["notes"][1:] == ["virtual clock: d has no latency, which counts as 0"]
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"note: {note}" in said for note in clock["notes"])
    assert run.read_lines("metrics.jsonl")[-1]["simulated_seconds"] > 0


@pytest.mark.slow
def test_licences_of_packaged_models_and_corpora_are_kept(config_file):
    run = train(config_file(training={"rounds": 1, "local_steps": 1}))
    assert run.read_json("manifest.json")["licences"] == {}  # a folder and a file have none that atlas knows
    config = load_config(config_file()).config
    groups = {"g": config.task_groups["g"].model_copy(update={"data": DataConfig(corpus="sms-spam")})}
    model = config.model.model_copy(update={"name": "gemma-3-270m"})
    assert licence_facts(config.model_copy(update={"model": model, "task_groups": groups})) == {
        "gemma-3-270m": "Gemma Terms of Use, ai.google.dev/gemma/terms",
        "sms-spam": "CC BY 4.0 upstream",
    }


@pytest.mark.slow
def test_a_prefix_cache_is_counted_in_the_manifest_and_leaves_no_file(config_file, capsys):
    clients = {"a": {"rank": {1: 2}}, "b": {"rank": {0: 2}}}
    run = train(config_file(clients=clients, engine={"prefix_cache": "1 KiB"}))
    cache = run.read_json("manifest.json")["engine"]["prefix_cache"]
    shown = capsys.readouterr().out
    assert "engine.prefix_cache does nothing for b-1, b-2: block 0 has an adapter" in " ".join(shown.split())
    examples = sum(c["examples"] for c in run.read_lines("clients.jsonl") if c["client"] == "a")
    assert cache["hits"] + cache["misses"] == examples > 0
    assert 0 < cache["memory_bytes"] <= 1024
    assert cache["disk_bytes"] > 0
    assert cache["disk_error"] is None
    assert list(run.path.parent.iterdir()) == [run.path]
    assert "prefix_cache" not in train(config_file()).read_json("manifest.json").get("engine", {})


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="this CPU has other kernels")
def test_weights_in_order_are_counted_and_change_no_figure_but_by_rounding(config_file, monkeypatch):
    monkeypatch.setattr(prepacked, "LEAST", 0)
    ordered, plain = train(config_file()), train(config_file(engine={"prepack": None}))
    counted = ordered.read_json("manifest.json")["engine"]["prepack"]
    # four blocks of BERT, of six layers each
    assert counted["layers"] == 24
    assert "engine" not in plain.read_json("manifest.json")
    assert "engine" not in train(config_file(engine={"prepack": "1 KiB"})).read_json("manifest.json")
    for file in plain.path.glob("adapters/groups/*/*.safetensors"):
        a, b = (load_file(run.path / file.relative_to(plain.path)) for run in (plain, ordered))
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-4) for name in a)
    assert ordered.read_json("manifest.json")["base_unchanged"] is True


@pytest.mark.slow
def test_replayed_passes_are_counted_in_the_manifest_and_that_there_can_be_none_is_said(
    config_file, monkeypatch, capsys
):
    """On a tape in place of CUDA graphs."""
    path = config_file(training={"rounds": 4}, engine={"cuda_graphs": True})
    plain = train(path)
    assert "warning: engine.cuda_graphs does nothing: cpu has no CUDA graphs" in capsys.readouterr().out
    assert "cuda_graphs" not in plain.read_json("manifest.json").get("engine", {})
    monkeypatch.setattr(building, "graphed_passes", lambda _: GraphedPasses(Tape()))
    replayed = train(path)
    assert "engine.cuda_graphs does nothing" not in capsys.readouterr().out
    counted = replayed.read_json("manifest.json")["engine"]["cuda_graphs"]
    assert counted.keys() == {"clients", "server"}
    assert all(each["replayed"] > 0 and "why" not in each for each in counted.values())
    for file in plain.path.glob("adapters/groups/*/*.safetensors"):
        a, b = (load_file(run.path / file.relative_to(plain.path)) for run in (plain, replayed))
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-4) for name in a)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch.compile itself
def test_compiled_blocks_train_to_the_same_adapters(config_file, monkeypatch):
    plain = train(config_file())
    monkeypatch.setattr(loaded_experiment, "compile_blocks", partial(compile_blocks, backend="eager"))
    compiled = train(config_file(engine={"compile": True}))
    files = sorted(plain.path.glob("adapters/groups/*/*.safetensors"))
    assert len(files) == 2
    for file in files:
        a, b = (load_file(folder / file.relative_to(plain.path)) for folder in (plain.path, compiled.path))
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)
