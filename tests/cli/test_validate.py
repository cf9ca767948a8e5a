"""What is valid can be trained: ``validate`` refuses what ``train`` would refuse, in the same words."""

import re
import time

import pytest
import torch

from atlas_cli import plugins
from atlas_cli.aggregation.methods import scaffold
from atlas_cli.cli import main
from atlas_cli.engines.remote import cluster
from atlas_cli.privacy.mechanisms import nopeek
from atlas_cli.tasks import regression

ABSENT = next(name for name in ("mps", "cuda") if not getattr(torch.backends, name).is_built())
REFUSED = {
    "memory": ["devices={tiny: {memory: 100 KiB}}", "clients.b.device=tiny"],
    "memory of auto": ["devices={tiny: {memory: 100 KiB}}", "clients.b.device=tiny", "clients.b.rank=auto"],
    "device": [f"device={ABSENT}"],
    "adapter": ["task_groups.g.adapter=nowhere"],
    "merge": ["aggregation.server_memory=1 KiB"],
    "merge by coordinates": ["aggregation={method: median, server_memory: 1 KiB}"],
    "threads": ["threads=1000000000"],
    "ray": ["engine.name=ray"],
    "tracker": ["trackers=[wandbb]"],
    "fingerprints": [
        "clustering.by=fingerprints",
        "partition={scheme: explicit, shards: {a: [0], b-1: [1, 2], b-2: [3, 4]}}",
    ],
    "privacy": ["aggregation.method=ffa", "privacy={updates: {clip: 1.0, epsilon: 1.0e-9}}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_what_train_refuses_is_not_valid(changes, config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)  # Ray is not installed
    said = {}
    for command in ("validate", "train"):
        code = main([command, str(config_file()), *changes])
        said[command] = code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said["validate"] == said["train"]
    assert said["validate"][0] in (2, 3, 5)
    assert not (tmp_path / "runs").exists()


def test_many_clients_are_a_row_a_kind(config_file, capsys):
    assert main(["validate", str(config_file(clients={"b": {"count": 101}})), "--no-data"]) == 0
    out = capsys.readouterr().out
    assert "b-1 and 100 alike" in out
    assert "b-50" not in out


def test_the_next_step_without_data_is_to_look_at_them(config_file, capsys):
    path = str(config_file())
    for options, last in (
        (["--no-data"], f"{path} is valid as far as is seen without its data; next: atlas validate {path} seed=1"),
        ([], f"{path} is valid; next: atlas train {path} seed=1"),
    ):
        assert main(["validate", path, "seed=1", *options]) == 0
        assert " ".join(capsys.readouterr().out.split()).endswith(last)


def test_an_override_key_of_many_parts_takes_no_time(config_file, capsys):
    path = str(config_file())
    began = time.process_time()
    assert main(["validate", path, f"{'.'.join('a' * 20_000)}=1"]) == 2
    assert time.process_time() - began < 5
    assert "nested more than 50 deep" in capsys.readouterr().err


def test_a_memory_check_that_is_left_out_is_said(config_file, capsys):
    path = str(config_file())
    tiny = ["devices={tiny: {memory: 100 KiB}}", "clients.b.device=tiny", "training.labels=client", "server.rank=0"]
    assert main(["validate", path, *tiny, "--no-data"]) == 0
    not_checked = "note: whether clients fit their devices is not checked: with %s a client has a head"
    assert not_checked % "training.labels: client" in capsys.readouterr().out
    assert main(["validate", path, *tiny[:2], "clients.a.learns=auxiliary", "server.rank=0", "--no-data"]) == 0
    assert not_checked % "clients.a.learns: auxiliary" in capsys.readouterr().out
    assert main(["validate", path, *tiny, "--no-data", "task_groups.g.classes=[neg, pos]"]) == 2
    assert "client b-1 needs" in capsys.readouterr().err
    assert main(["validate", path, "training.labels=client", "server.rank=0", "--no-data"]) == 0
    assert "not checked" not in capsys.readouterr().out  # nobody has a device to fit


@pytest.mark.slow
def test_what_predictions_leave_out_is_said_beside_them(config_file, capsys):
    path = str(config_file())
    changes = ["privacy.nopeek.weight=0.1", "clients.b.device=phone-2gib"]
    left_out = "not in the predicted peak of a client: privacy.nopeek (distances between the tokens of a batch)"
    for command in (["validate"], ["memory-report"], ["ranks"], ["ranks", "--json"], ["memory-report", "--json"]):
        assert main([command[0], path, *changes, *command[1:]]) == 0
        assert left_out in " ".join(capsys.readouterr().out.split()), command


def test_the_plan_of_a_mode_is_of_that_mode(config_file, capsys):
    """Rank 4 below the cut and 2 above, query and value of two layers each, 32 to 32; 4 x 32 tokens of width 32."""
    path = str(config_file(server={"rank": 2}))

    def shown(*changes):
        assert main(["validate", path, "--no-data", *changes]) == 0
        out = capsys.readouterr().out
        (row,) = (line.split() for line in out.splitlines() if line.startswith("a "))
        return out, row[4], row[5]

    split, own, up = shown()
    assert (own, up) == ("1,024", "0.016") and "server trains, for each task group: head and 512 adapter" in split
    assert shown("wire.activations.codec=int8")[2] == "0.005"  # 36 bytes a token
    assert "server trains, for each task group: 512 adapter" in shown("training.labels=client")[0]
    whole, own, up = shown("mode=federated")
    assert (own, up) == ("1,536", "0") and "server trains" not in whole and "client half" not in whole


def client_term(self):
    raise ValueError("no term today")


BROKEN = {
    "mechanism": (
        nopeek.Mechanism,
        "penalti",
        1,
        "privacy={nopeek: {weight: 1}}",
        r"privacy\.nopeek: .*did you mean",
    ),
    "task": (regression.Task, "los", 1, "task_groups.g.task=regression", r"g\.task: .*sion\.py: Task\.los is nothing"),
    "term": (scaffold.Method, "client_term", client_term, "aggregation.method=scaffold", "client_term raised ValueErr"),
    "extras": (
        scaffold.Method,
        "extra_tensors",
        lambda self, layers: {"up": 1},
        "aggregation.method=scaffold",
        r"Method\.extra_tensors gives a dict, expected ExtraTensors",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", BROKEN)
def test_a_plugin_that_is_broken_before_training_is_not_valid(part, config_file, capsys, monkeypatch):
    owner, hook, value, change, says = BROKEN[part]
    monkeypatch.setattr(owner, hook, value, raising=False)
    monkeypatch.setattr(plugins, "_first_problem", plugins._first_problem.__wrapped__)  # else looked at once
    said = {}
    for command in ("validate", "train"):
        assert main([command, str(config_file()), change]) in (1, 2)
        said[command] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said["validate"] == said["train"] and re.search(says, said["validate"][0]), said
