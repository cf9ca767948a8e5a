"""What ``--json`` prints is what docs/reference/json-output.md says, and nothing else is on standard output."""

import json
import re
from pathlib import Path

import pytest

from atlas_cli.cli import main
from atlas_cli.printable import as_typed
from atlas_cli.units import format_seconds

PAGE = (Path(__file__).parents[2] / "docs/reference/json-output.md").read_text(encoding="utf-8")


def documented(command):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `atlas {command}`"))
    return set(re.findall(r"`(\w+)`", row))


@pytest.fixture
def printed(config_file, capsys):
    def run(*arguments):
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_train_and_what_was_shown_is_in_the_log(config_file, capsys):
    file = str(config_file())
    assert main(["train", file, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert {*found, *found["task_groups"][0]} == documented("train") - {"higher", "lower", "null"}
    log = (Path(found["run"]) / "log.txt").read_text(encoding="utf-8")
    lines = [line for line in shown.err.splitlines() if line != f"reading {file}"]
    assert len(lines) > 5 and all(line in log for line in lines)


@pytest.mark.slow
def test_the_final_table_is_in_the_log(config_file, capsys):
    assert main(["train", str(config_file())]) == 0
    *_, table, time, report, following, more = capsys.readouterr().out.splitlines()
    run = Path(report.removeprefix("report ")).parent
    assert following.startswith(f"next: atlas report {as_typed(str(run))} --open")
    log = (run / "log.txt").read_text(encoding="utf-8")
    took = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["duration_s"]
    assert time == f"time: of local steps and evaluation; the whole run took {format_seconds(took)}"
    assert more == f"more rounds: atlas train --resume {as_typed(str(run))} training.rounds=4"
    assert all(line.rstrip() in log for line in (table, time, report, following, more))


def test_validate(config_file, printed):
    found = printed("validate", str(config_file()))
    told = {*found, *found["model"], *found["clients"][0], *found["task_groups"]["g"]}
    assert told == documented("validate") - {"auto"}
    assert [client["training_examples"] > 0 for client in found["clients"]] == [True] * 3


@pytest.mark.slow
def test_plan(config_file, printed):
    found = printed("plan", str(config_file()), "--cuts", "1", "--checkpointing", "false", "--embeddings", "table")
    assert {*found, *found["front"][0]} == documented("plan") - {"null"}


def test_data(config_file, printed):
    (found,) = printed("data", str(config_file())).values()
    client = found["clients"]["a"]
    assert {*found, *client, *client["tokens"]} == documented("data")
    assert client["tokens"]["min"] <= client["tokens"]["median"] <= client["tokens"]["max"]
