"""``atlas plan`` as typed: what it shows, draws and writes, and that the written config has the figures."""

import json

import pytest
from support.toy_runs import train

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.planning.cuts.leakage import EXAMPLE

LINK = {"uplink": "2 Mbit/s", "downlink": "8 Mbit/s", "latency": "10 ms", "watts": "3 W"}
DEVICES = {"phone": {"compute": "5 MFLOP/s", **LINK}, "laptop": {"compute": "1 GFLOP/s", **LINK}}
NOT_FREE = ("--checkpointing", "false", "--embeddings", "rows")


@pytest.fixture
def planned_file(config_file):
    """A config of two devices, with a comment."""
    file = config_file(devices=DEVICES, clients={"a": {"device": "phone"}, "b": {"device": "laptop"}})
    file.write_text("# mine\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    return file


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args):
        code = main(["plan", *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learns", "dtype", "memory"),
    [
        ("backprop", "bfloat16", "50 kB"),
        ("zeroth-order", "float32", "90 kB"),
        ("frozen", "bfloat16", "50 kB"),
        ("auxiliary", "bfloat16", "1 MB"),
    ],
)
def test_a_run_of_the_written_config_has_the_figures_of_the_candidate(
    learns, dtype, memory, run, config_file, tmp_path, capsys
):
    """Texts are cut at 4 tokens, so that all batches are full. Memory is as predicted but for the mask of padding."""
    file = config_file(
        "causal-lm",
        devices={"phone": {"memory": memory, **DEVICES["phone"]}, "laptop": DEVICES["laptop"]},
        clients={"a": {"device": "phone"}, "b": {"device": "laptop"}},
        training={"max_length": 4},
        faults={"slow": {"a": 1.5}},
    )
    new, leakage = tmp_path / "new.yaml", tmp_path / "leakage.json"
    leakage.write_text(EXAMPLE.replace('"2"', '"3"'), encoding="utf-8")
    lists = ("--cuts", "1,3", "--ranks", "2,4", "--batch-sizes", "2", "--codecs", "int8", "--dtypes", dtype)
    goal = ("--leakage", leakage, "--learns", learns, "--minimise", "leakage", "--write", new, "--json")
    free = NOT_FREE[:2] if learns == "auxiliary" else NOT_FREE  # whose head is the token table, which is left free
    code, out, _ = run(file, *lists, *free, *goal)
    assert code == 0
    record = json.loads(out)
    chosen = record["front"][record["chosen"]]
    if learns == "auxiliary":
        assert any("embedding: rows is not planned" in note for note in record["notes"])
    if learns == "backprop":  # of more blocks, the phone has not the memory
        assert [chosen["clients"][kind]["split_layer"] for kind in ("phone", "laptop")] == [1, 3]
    made = train(new)
    lines = [line for line in made.read_lines("clients.jsonl") if line["round"] == 2]
    assert {line["examples"] for line in lines} == {2 * chosen["batch_size"]}
    assert chosen["bytes_up"] == sum(line["bytes_up"] for line in lines)
    assert chosen["bytes_down"] == sum(line["bytes_down"] for line in lines)
    metrics = made.read_lines("metrics.jsonl")[-1]
    assert (chosen["seconds"], chosen["joules"]) == (metrics["simulated_seconds"], metrics["simulated_joules"])
    capsys.readouterr()
    assert main(["memory-report", str(made.path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    errors = [report["prediction"][client]["error_percent"]["total"] for client in ("a", "b-1", "b-2")]
    assert errors == pytest.approx([0, 0, 0], abs=2)
    assert main(["memory-report", str(new), "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)
    assert chosen["memory"] == max(client["peak"] for client in predicted["clients"].values())
    assert chosen["server_memory"] == predicted["server"]["peak"]


def test_nothing_is_overwritten_and_write_wants_a_choice(run, planned_file):
    before = planned_file.read_text(encoding="utf-8")
    code, _, err = run(planned_file, "--minimise", "time", "--write", planned_file)
    assert code == 2 and "exists already and is not overwritten" in err
    assert planned_file.read_text(encoding="utf-8") == before
    code, _, err = run(planned_file, "--write", "new.yaml")
    assert code == 2 and err.startswith("error: --write: needs --minimise")
    code, _, err = run(planned_file, "--subject-to", "memory<=1 MiB")
    assert code == 2 and err.startswith("error: --subject-to: needs --minimise")


@pytest.mark.slow
def test_overrides_are_written_with_all_keys(run, planned_file, tmp_path):
    new = tmp_path / "new.yaml"
    code, out, _ = run(
        planned_file, "training.rounds=3", "--cuts", "1", *NOT_FREE, "--minimise", "memory", "--write", new
    )
    assert code == 0 and "all keys are written out" in out
    assert load_config(new).config.training.rounds == 3


def test_an_impossible_limit_says_how_near_it_is(run, planned_file):
    code, _, err = run(planned_file, "--minimise", "time", "--subject-to", "memory<=1 kB", "--cuts", "1-2", *NOT_FREE)
    assert code == 5
    assert "no candidate keeps memory<=1 kB; the nearest (1.000 blocks on a client) misses: memory is" in err


def test_the_table_and_the_picture(run, planned_file, tmp_path):
    picture, figures = tmp_path / "front.svg", tmp_path / "leakage.json"
    figures.write_text(EXAMPLE, encoding="utf-8")
    arguments = ("--leakage", figures, "--cuts", "1,2", *NOT_FREE, "--minimise", "leakage", "--plot", picture)
    code, out, _ = run(planned_file, *arguments)
    assert code == 0
    assert max(map(len, (line.rstrip() for line in out.splitlines() if not line.startswith("note")))) <= 100
    assert "leakage" in out and "0.900" in out and "chosen: split layer 2;" in out
    assert picture.read_bytes().startswith(b"<?xml")


def test_figures_that_are_not_known_are_neither_explained_nor_to_be_minimised(run, planned_file, config_file):
    for path, figures, goal in (
        (planned_file, "seconds, joules, MB (both ways)", "time"),
        (None, "MB (both ways)", "memory"),  # without devices
    ):
        code, out, _ = run(path or config_file(), "--cuts", "1,2", *NOT_FREE)
        said = " ".join(out.split())
        assert code == 0 and f"predicted peak of a client; {figures}: of all clients in a round" in said
        assert said.endswith(f"next: --minimise {goal} --write NEW.yaml chooses one and writes its config")
