import io
import json

import pytest
import typer
from support.made_up_run import holder, memory_record
from typer.testing import CliRunner

from atlas_cli.cli.memory_report import command
from atlas_cli.errors import ResourceError
from atlas_cli.reports.memory import MAX_TABLE_CLIENTS, holders, memory_table, remarks
from atlas_cli.reports.terminal import Terminal
from atlas_cli.runs.memory_schemas import HolderMemory


@pytest.fixture
def invoke():
    app = typer.Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def printed(memory):
    out = io.StringIO()
    Terminal(file=out, width=80).print(memory_table(memory, 700_000_000))
    return out.getvalue()


def labels(clients):
    return [row.label for row in holders(memory_record(clients), MAX_TABLE_CLIENTS)]


def test_few_clients_have_a_row_each():
    clients = {f"phone-{i}": holder() for i in range(MAX_TABLE_CLIENTS)}
    assert labels(clients) == [*clients, "server", "full fine-tuning", "unsplit LoRA"]


def test_many_clients_are_counted_by_kind_and_the_largest_is_shown():
    clients = {f"phone-{i}": holder() for i in range(10)}
    clients |= {f"laptop-{i}": holder(activations=1000 + i) for i in range(3)}
    clients |= {"laptop-9": holder(adapters=99), "desk": holder()}
    rows = holders(memory_record(clients), MAX_TABLE_CLIENTS)
    assert [(row.label, row.clients) for row in rows[:4]] == [
        ("phone (10 alike)", 10),
        ("laptop (largest of 3)", 3),
        ("laptop-9", 1),
        ("desk", 1),
    ]
    assert rows[1].parts["saved_activations"] == 1002


def test_table_is_in_mib_and_says_what_was_measured():
    text = printed(memory_record({"a": holder()}))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    # bytes: 60,000,000 weights, 50,000 adapters, 50,000 gradients, 100,000 optimizer, 20,000,000 saved, 500,000 cut
    assert lines["a"] == ["a", "57.2", "0.048", "0", "0.048", "0.095", "19.1", "0.477", "77.0"]
    assert "clients, server: measured in round 1" in text
    assert "full fine-tuning: computed from shapes" in text
    assert "unsplit LoRA: measured on one batch" in text


def test_a_mode_without_a_server_has_no_server_row():
    memory = memory_record({"a": holder()}) | {"server": None}
    assert "server" not in printed(memory)


def test_what_codecs_keep_is_said_of_both_ends():
    memory = memory_record({"a": holder() | {"kept_adapters": 3 * 2**20}, "b": holder() | {"kept_adapters": 2**20}})
    memory["server"] = memory["server"] | {"kept_adapters": 4 * 2**20}
    assert (
        "cut buffers: what codecs keep of adapters and heads, at most 3.00 MiB at a client and 4.00 MiB at the server"
    ) in remarks(memory, None)


def test_every_part_of_the_schema_has_a_column():
    (row, *_) = holders(memory_record({"a": holder()}), 1)
    assert set(row.parts) == set(HolderMemory.model_fields) - {
        "total",
        "batch",
        "embedding_rows",  # which are in frozen_weights
        "kept_activations",  # in cut_buffers
        "kept_tokens",
        "kept_texts",  # in cut_buffers
        "text_tokens",
        "kept_adapters",  # in cut_buffers
    }


def test_command_prints_the_run(make_run, invoke):
    run = make_run()
    shown = invoke(str(run.path))
    assert shown.exit_code == 0
    assert str(run.path) in shown.output
    assert "laptop-2" in shown.output
    recorded = run.read_json("memory.json")
    said = json.loads(invoke(str(run.path), "--json").output)
    assert {key: said[key] for key in recorded} == recorded


def test_command_without_a_path_takes_the_newest_run(make_run, invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(invoke().exception, ResourceError)
    make_run()
    newest = make_run()
    assert newest.path.name in invoke().output


@pytest.mark.parametrize("broken", ["absent", "not a run", "no memory"])
def test_command_names_what_is_wrong(make_run, invoke, tmp_path, broken):
    path = {"absent": tmp_path / "none", "not a run": tmp_path, "no memory": make_run().path}[broken]
    if broken == "no memory":
        (path / "memory.json").unlink()
    error = invoke(str(path)).exception
    assert isinstance(error, ResourceError)
    assert str(path) in str(error)
    assert "\n" not in str(error)
