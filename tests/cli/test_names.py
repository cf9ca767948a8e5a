"""Clients and task groups whose names some file systems lack, or take for one."""

import json

import pytest
import yaml
from support.toy_runs import train

from atlas_cli.cli import main
from atlas_cli.storage.folder_names import folder_names
from atlas_cli.wire.recorded_messages import recorded_messages

NAMES = ["A", "a", "con", "nul.x", "a.", "phone-1"]


@pytest.mark.slow
def test_each_has_a_folder_of_its_own_everywhere(config_file, data):
    group = {"task": "sequence-classification", "data": {"files": str(data / "tone.csv")}}
    clients = {name: {"task_group": "G" if i % 2 else "g", "rank": 2} for i, name in enumerate(NAMES)}
    small = {"partition": {"min_examples": 1}, "training": {"rounds": 1, "local_steps": 1, "batch_size": 2}}
    path = config_file(task_groups={"G": group}, audit={"record": {"rounds": [1]}}, **small)
    path = with_clients(path, clients)
    run = train(path)
    for kind, names in (("clients", NAMES), ("groups", ["g", "G"])):
        folders = folder_names(names)
        found = {folder.name: folder for folder in (run.path / "adapters" / kind).iterdir()}
        assert len({name.casefold() for name in found}) == len(names)
        owners = {
            json.loads((found[folders[name]] / "origin.json").read_text(encoding="utf-8"))["owner"] for name in names
        }
        assert owners == set(names)
    messages = recorded_messages(run)
    assert {message.client for message in messages} == set(NAMES)
    assert len({message.path.parent.name.casefold() for message in messages}) == len(NAMES)
    assert {line["client"] for line in run.read_lines("clients.jsonl")} == set(NAMES)
    assert (run.path / "adapters" / "clients" / "phone-1").is_dir()


def with_clients(path, clients):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, "clients": clients}, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a:b", "a/b", "a\\b", "a ", "x" * 81, "..", ""])
def test_what_can_be_no_folder_is_refused_before_anything_is_done(config_file, capsys, name):
    path = with_clients(config_file(), {name: {"task_group": "g", "rank": 2}})
    assert main(["validate", str(path)]) == 2
    err = capsys.readouterr().err
    assert "clients" in err and len(err.splitlines()) == 1 and len(err) < 500
