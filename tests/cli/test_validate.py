"""What is valid can be trained: ``validate`` refuses what ``train`` would refuse, in the same words."""

import time

import pytest
import torch

from atlas_cli.cli import main

ABSENT = next(name for name in ("mps", "cuda") if not getattr(torch.backends, name).is_built())
REFUSED = {
    "memory": ["devices={tiny: {memory: 100 KiB}}", "clients.b.device=tiny"],
    "memory of auto": ["devices={tiny: {memory: 100 KiB}}", "clients.b.device=tiny", "clients.b.rank=auto"],
    "device": [f"device={ABSENT}"],
    "adapter": ["task_groups.g.adapter=nowhere"],
    "merge": ["aggregation.server_memory=1 KiB"],
    "merge by coordinates": ["aggregation={method: median, server_memory: 1 KiB}"],
    "threads": ["threads=1000000000"],
    "privacy": ["aggregation.method=ffa", "privacy={updates: {clip: 1.0, epsilon: 1.0e-9}}"],
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_what_train_refuses_is_not_valid(changes, config_file, tmp_path, capsys):
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


def test_an_override_key_of_many_parts_takes_no_time(config_file, capsys):
    path = str(config_file())
    began = time.process_time()
    assert main(["validate", path, f"{'.'.join('a' * 20_000)}=1"]) == 2
    assert time.process_time() - began < 5
    assert "nested more than 50 deep" in capsys.readouterr().err
