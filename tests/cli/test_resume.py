"""A resumed run equals one that was never stopped, and damage to a checkpoint is noticed."""

import json
import shutil
import sys

import pytest
from safetensors.torch import load_file, save_file
from support.slow import slow
from support.toy_runs import train

from atlas_cli.cli import main
from atlas_cli.hashing import sha256_file
from atlas_cli.reports.page.report import page
from atlas_cli.runs import manifest as manifest_module
from atlas_cli.runs.directory import RunDirectory

TIMINGS = {"seconds", "samples_per_second"}
RUN = {"rounds": 3, "local_steps": 2, "cohort": 0.5}


def records(run, name):
    lines = (run.path / name).read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def adapters(run):
    return {p.relative_to(run.path): p.read_bytes() for p in run.path.glob("adapters/**/*.safetensors")}


def copied(whole, folder):
    """The records of a run that was killed before it ended."""
    shutil.copytree(whole.path, folder)
    run = RunDirectory(folder)
    run.write_json("manifest.json", {**run.read_json("manifest.json"), "status": "failed"})
    return run


@pytest.fixture
def finished(make_toy_run, tmp_path):
    """A run of two rounds, to be changed."""
    return RunDirectory(shutil.copytree(make_toy_run(server={"rank": 2}).path, tmp_path / "finished"))


def stop_after(run, number):
    """What a kill in the round after ``number`` leaves: no later checkpoint, and records of an unfinished round."""
    for folder in run.path.glob("checkpoints/round-*"):
        if int(folder.name.removeprefix("round-")) > number:
            shutil.rmtree(folder)
    shutil.rmtree(run.path / "adapters")
    with (run.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 4, "task_gro')


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"lora": {"dropout": 0.2}},
        {"training": {"labels": "client"}},
        {"training": {"server_update": "per-client"}, "aggregation": {"method": "none"}},
        {"training": {"client_optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}},
        {"mode": "federated"},
        {"aggregation": {"method": "flora"}},
        {"mode": "federated", "aggregation": {"method": "hetlora", "options": {"prune": 0.5, "penalty": 1.0}}},
        {"clustering": {"k": 2, "every": 1, "batches": 1}, "training": {"labels": "client"}},
        {"clustering": {"by": "random", "k": 2}, "aggregation": {"method": "fedex"}},
        {"faults": {"drop": 0.3, "crash_at": {"b-1": {"round": 2, "step": 1}}}, "training": {"cohort": 1.0}},
        {"server": {"rank": 2}, "clients": {"a": {"split_layer": 1}, "b": {"split_layer": 3}}},
        {"clients": {"a": {"split_layer": 3, "dtype": "bfloat16"}}, "server": {"rank": 2}},
        {"clients": {"b": {"dtype": "bfloat16"}}, "aggregation": {"method": "fedex"}},
        {"model": {"quantization": "nf4"}, "clients": {"b": {"quantization": "int8"}}},
        {
            "privacy": {
                "updates": {"clip": 0.1, "epsilon": 50.0},
                "activations": {"clip": 1.0, "noise_multiplier": 0.1},
                "labels": {"epsilon": 1.0},
            },
            "wire": {
                "activations": {"codec": "delta"},
                "gradients": {"codec": "random-top-k", "feedback": True},
            },
            "aggregation": {"method": "ffa", "weights": "uniform"},
        },
        {
            "privacy": {"examples": {"clip": 0.1, "noise_multiplier": 1.0}},
            "aggregation": {"weights": "uniform"},
            "training": {"labels": "client", "batch_size": 1},
            "server": {"rank": 0},
        },
        {"clients": {n: {"rank": {1: 2}} for n in "ab"}, "engine": {"prefix_cache": "4 KiB"}},
    ],
    ids=str,
)
def test_equal_to_an_unbroken_run(config_file, tmp_path, changes):
    whole = train(config_file(**{**changes, "training": {**RUN, **changes.get("training", {})}}))
    broken = copied(whole, tmp_path / "broken")
    stop_after(broken, 2)
    assert main(["train", "--resume", str(broken.path)]) == 0
    written = ["clusters.jsonl"] if "clustering" in changes else []
    for name in ("metrics.jsonl", "clients.jsonl", "messages.jsonl", *written):
        assert records(broken, name) == records(whole, name)
    assert (broken.path / "memory.json").read_bytes() == (whole.path / "memory.json").read_bytes()
    assert adapters(broken) == adapters(whole)
    last = "checkpoints/round-000003/state.safetensors"
    assert (broken.path / last).read_bytes() == (whole.path / last).read_bytes()
    assert broken.read_json("manifest.json")["status"] == "finished"


@pytest.mark.slow
def test_at_every_round_it_is_the_unbroken_run_byte_for_byte(config_file, tmp_path):
    """With dropout, an evaluation before the round that memory is measured in, which another process may do."""
    changes = {"lora": {"dropout": 0.2}, "checkpoints": {"keep": 9}, "evaluation": {"every": 2}}
    whole = train(config_file(training=RUN, **changes))
    files = ["messages.jsonl", "memory.json", *(f"adapters/{p}" for p in ("clients", "groups"))]
    for done in range(3):
        broken = copied(whole, tmp_path / f"broken-{done}")
        stop_after(broken, done)
        if done == 0:
            (broken.path / "memory.json").unlink()
        assert main(["train", "--resume", str(broken.path)]) == 0
        for name in ("metrics.jsonl", "clients.jsonl"):
            assert records(broken, name) == records(whole, name), (done, name)
        for name in files:
            held = [p for p in [whole.path / name, *(whole.path / name).rglob("*")] if p.is_file()]
            assert held
            for path in held:
                again = broken.path / path.relative_to(whole.path)
                assert again.read_bytes() == path.read_bytes(), (done, name)


@pytest.mark.slow
def test_the_manifest_lists_the_processes_and_sums_what_they_did(config_file, monkeypatch):
    cached = {"clients": {n: {"rank": {1: 2}} for n in "ab"}, "engine": {"prefix_cache": "4 KiB"}}
    run = train(config_file(training=RUN, checkpoints={"keep": 9}, **cached))
    first = run.read_json("manifest.json")
    assert [(part["after_round"], part["status"]) for part in first["parts"]] == [(None, "finished")]
    assert first["engine"]["prefix_cache"] == first["parts"][0]["engine"]["prefix_cache"]
    stop_after(run, 2)
    killed = {**first["parts"][0], "status": "running", "ended": None, "duration_s": None}
    run.write_json("manifest.json", {**first, "status": "running", "parts": [first["parts"][0], killed]})
    monkeypatch.setattr(sys, "argv", ["atlas", "train", "--resume", "RUN"])
    monkeypatch.setattr(manifest_module, "_version", lambda name: "9.9")
    assert main(["train", "--resume", str(run.path)]) == 0
    last = run.read_json("manifest.json")
    assert [(part["after_round"], part["status"]) for part in last["parts"]] == [
        (None, "finished"), (None, "killed"), (2, "finished"),
    ]  # fmt: skip
    one, _, three = last["parts"]
    assert three["versions"]["torch"] == "9.9" != last["versions"]["torch"] == one["versions"]["torch"]
    assert three["command"] == ["atlas", "train", "--resume", "RUN"] and last["command"] == one["command"]
    assert last["duration_s"] is None and last["started"] == one["started"]  # how long the killed one took is not known
    assert last["process_rss_peak"] == max(one["process_rss_peak"], three["process_rss_peak"]) > 10**7
    sums = [sum(p["engine"]["prefix_cache"][key] for p in last["parts"]) for key in ("hits", "misses")]
    assert [last["engine"]["prefix_cache"][key] for key in ("hits", "misses")] == sums
    assert "9.9" in page(run) and "killed" in page(run)


@pytest.mark.parametrize(("first", "then"), slow(("null", "1 KiB"), ("1 KiB", "null")))
def test_clients_may_be_put_away_or_not_on_the_way(config_file, tmp_path, first, then):
    path = config_file(training=RUN, aggregation={"method": "fedsa"})
    for name in (".offload-killed", ".prefix-cache-killed"):  # of processes that are gone
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / ".lock").touch()
    whole, broken = train(path, "engine.offload=null"), train(path, f"engine.offload={first}")
    stop_after(broken, 2)
    assert main(["train", "--resume", str(broken.path), f"engine.offload={then}"]) == 0
    for name in ("metrics.jsonl", "clients.jsonl", "messages.jsonl"):
        assert records(broken, name) == records(whole, name)
    assert adapters(broken) == adapters(whole)
    for name in ("state.safetensors", "state.json"):
        last = f"checkpoints/round-000003/{name}"
        assert (broken.path / last).read_bytes() == (whole.path / last).read_bytes()
    assert ("offload" in broken.read_json("manifest.json")["parts"][-1].get("engine", {})) == (then != "null")
    assert set(whole.path.parent.iterdir()) == {whole.path, broken.path}  # no folder of clients is left


def test_more_rounds_after_the_end(finished):
    assert main(["train", "--resume", str(finished.path), "training.rounds=3"]) == 0
    assert [line["round"] for line in records(finished, "metrics.jsonl")] == [0, 1, 2, 3]


@pytest.mark.parametrize("harm", ["flip", *slow("cut", "missing")])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(config_file, capsys, harm):
    run = train(config_file(training=RUN))
    stop_after(run, 3)
    file = run.path / "checkpoints/round-000003/state.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(content if harm == "flip" else content[:-1])
    capsys.readouterr()
    assert main(["train", "--resume", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert "warning: checkpoint round-000003" in out
    assert "goes on after round 2" in out


def test_what_cannot_be_resumed(finished, capsys, tmp_path):
    run = finished
    before = (run.path / "metrics.jsonl").read_bytes()
    assert main(["train", "--resume", str(run.path)]) == 2
    assert "add training.rounds=N" in capsys.readouterr().err
    assert main(["train", "--resume", str(run.path), "training.rounds=3", "lora.alpha=8"]) == 2
    assert "lora.alpha: cannot change when a run is resumed" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "nothing")]) == 3
    shutil.rmtree(run.path / "checkpoints")
    assert main(["train", "--resume", str(run.path), "training.rounds=3"]) == 3
    assert (run.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_a_group_starts_from_an_adapter_of_a_run(config_file, mode):
    opt = {"lr": 0.05}
    run = train(config_file(mode=mode, training={"client_optimizer": opt, "server_optimizer": opt}))
    left = records(run, "metrics.jsonl")
    adapter = str(run.path / "adapters/groups/g")
    again = train(config_file(mode=mode, task_groups={"g": {"adapter": adapter}}, training={"rounds": 1}))
    start = records(again, "metrics.jsonl")[0]
    assert start["test"] == left[-1]["test"] != left[0]["test"]


def test_an_adapter_that_does_not_fit(finished, config_file, capsys):
    adapter = {"task_groups": {"g": {"adapter": str(finished.path / "adapters/groups/g")}}}
    assert main(["train", str(config_file(**adapter, clients={"a": {"rank": 3}}))]) == 2
    assert "has rank 4 at encoder.layer.0.attention.self.query, above the group's 3" in capsys.readouterr().err
    assert main(["train", str(config_file(**adapter, server={"rank": 0}))]) == 2
    assert "which this experiment does not" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_checkpointing_changes_memory_and_nothing_else(config_file, mode):
    alone = {"mode": mode, "engine": {"fuse": "off"}}  # a client with checkpointing shares no pass
    plain = train(config_file(**alone))
    less = train(config_file(**alone, clients={"a": {"checkpointing": True}}))
    assert adapters(plain) == adapters(less)
    saved = [run.read_json("memory.json")["clients"]["a"]["saved_activations"] for run in (plain, less)]
    assert saved[1] < 0.5 * saved[0]


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_the_record_of_what_it_started_from(finished, config_file):
    adapter = finished.path / "adapters/groups/g"
    run = train(config_file(task_groups={"g": {"adapter": str(adapter)}}, training={"rounds": 1}))
    begun = run.read_json("manifest.json")["warm_starts"]
    assert begun["g"]["sha256"] == sha256_file(adapter / "adapter_model.safetensors")
    (adapter / "SHA256SUMS").unlink()
    tensors = {name: 2 * tensor for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert main(["train", "--resume", str(run.path), "training.rounds=2"]) == 0
    assert run.read_json("manifest.json")["warm_starts"] == begun


@pytest.mark.slow
def test_what_clients_that_wait_for_nobody_lose_at_the_end_is_said(config_file, capsys):
    """c's only pass began in round 1, so that no crash in round 2 meets it; resuming does not take its work up."""
    phone = {"device": "phone-2gib"}
    training = {"server_update": "sequential", "local_steps": 2, "asynchrony": {"buffer": 1}}
    faults = {"slow": {"b-2": 40.0}, "crash_at": {"b-2": {"round": 2, "step": 1}, "a": {"round": 1}}}
    run = train(config_file(clients={"a": phone, "b": phone}, training=training, faults=faults))
    missed = "warning: faults.crash_at met nobody of b-2: none of them came to its step from a start in its round"
    assert missed in capsys.readouterr().out.splitlines()
    last = [line for line in run.read_lines("clients.jsonl") if line["client"] == "b-2"][-1]
    assert last["simulated"]["upload"] > 0 == last["bytes_up"]
    assert main(["train", "--resume", str(run.path), "training.rounds=3"]) == 0
    assert "warning: training had ended after round 2, where the work of clients under way" in capsys.readouterr().out
