"""``atlas memory-report`` of a config and of a run: predictions beside measurements, in every form it is printed in."""

import csv
import io
import json

import pytest
from PIL import Image
from support.merging import asked
from support.toy_runs import train

from atlas_cli import discovery
from atlas_cli.cli import main
from atlas_cli.cli._tables.memory_prediction import ALL_PARTS, one_a_kind, predicted_rows
from atlas_cli.config.load import load_config
from atlas_cli.experiment.allocation.measured_client import measure_client
from atlas_cli.planning.memory_of_plan import Shape, predict, shapes_of
from atlas_cli.planning.plan import make_plan
from atlas_cli.runs.directory import open_run


@pytest.fixture
def report(capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        assert main(["memory-report", *map(str, arguments)]) == code
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    return run


@pytest.mark.slow
def test_prediction_of_a_run_beside_what_was_measured(config_file, report):
    path = config_file("causal-lm", training={"max_length": 4, "rounds": 1}, server={"rank": 0})
    run = train(path)
    shown = json.loads(report(run.path, "--json"))
    memory = run.read_json("memory.json")
    assert {key: shown[key] for key in memory} == memory
    assert shown["notes"] == []
    for client in "a", "b-1", "b-2":
        errors = shown["prediction"][client]["error_percent"]
        assert set(errors) >= {"frozen_weights", "adapters", "gradients", "optimizer", "cut_buffers", "total"}
        # but for the mask: the run does not tell whether its largest batch had padding
        assert errors.pop("saved_activations") == pytest.approx(0, abs=2)
        assert errors.pop("total") == pytest.approx(0, abs=2)
        assert set(errors.values()) == {0}
    for row in "server", "full fine-tuning", "unsplit LoRA":
        assert shown["prediction"][row]["error_percent"]["frozen_weights"] == 0
    table = report(run.path)
    assert "error, %" in table and "total: without what is transient" in table

    # texts are cut at 4 tokens: clients whose batches are all full send and receive what is predicted, to the byte
    prediction = predict(make_plan(load_config(path).config), {})
    full = [x for x in run.read_lines("clients.jsonl") if x["round"] == 1 and x["examples"] == 2 * 4]
    assert full
    for line in full:
        sent = prediction.rounds[line["client"]]
        assert (line["bytes_up"], line["bytes_down"]) == (sent.up, sent.down)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("sequence-classification", {"training": {"labels": "client"}}),
        (
            "token-classification",
            {"training": {"server_update": "sequential"}, "clients": {"a": {"checkpointing": True}}},
        ),
        ("question-answering", {"mode": "federated"}),
    ],
)
def test_other_ways_to_train(config_file, task, changes):
    run = train(config_file(task, **{**changes, "training": {**changes.get("training", {}), "rounds": 1}}))
    memory = run.read_json("memory.json")
    data = run.read_json("manifest.json")["data"]
    plan = make_plan(load_config(run.path / "config.yaml").config)
    said = predict(plan, {name: group["classes"] for name, group in data.items()}, shapes_of(memory)).record()
    parties = {**memory["clients"], **({"server": memory["server"]} if memory["server"] else {})}
    for name, found in parties.items():
        predicted = said["server"] if name == "server" else said["clients"][name]
        for part in ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "cut_buffers"):
            assert predicted[part] == found[part], (name, part)
        # masks of batches without padding, and those that checkpointed blocks are given
        assert predicted["saved_activations"] == pytest.approx(found["saved_activations"], rel=0.06), name


def test_config_as_tables(config_file, report):
    text = report(config_file("causal-lm"))
    for words in (
        "MiB (1 MiB = 1,048,576 bytes)",
        "MB (1 MB = 1,000,000 bytes)",
        "assumed: batches of 4 examples of 32",
    ):
        assert words in " ".join(text.split())
    rows = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert {"a", "server", "full", "unsplit"} <= set(rows)
    assert rows.count("b-1") == 2 and "b-2" not in rows, "both tables have clients that are alike as one"
    assert [line.split()[2] for line in text.splitlines() if line.startswith("all clients ")] == ["3"]
    assert "model.fused_gelu: true" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_config_as_json_and_csv_are_the_same_bytes(config_file, report):
    path = config_file("sequence-classification")
    record = json.loads(report(path, "training.batch_size=6", "--json"))
    assert record["unit"] == "bytes"
    assert record["clients"]["a"]["batch"] == {"size": 6, "tokens": 6 * 32, "padded": True}
    assert record["clients"]["b-2"]["alike"] == "b-1"
    rows = {row["holder"]: row for row in csv.DictReader(io.StringIO(report(path, "training.batch_size=6", "--csv")))}
    assert list(rows) == ["a", "b-1", "b-2", "server", "full_fine_tuning", "unsplit_lora", "all clients"]
    for name, parts in {**record["clients"], "server": record["server"]}.items():
        assert int(rows[name]["peak_bytes"]) == parts["peak"] == sum(parts[key] for key in ALL_PARTS)
        assert all(int(rows[name][f"{key}_bytes"]) == parts[key] for key in ALL_PARTS)
    assert int(rows["a"]["round_up_bytes"]) == record["round"]["a"]["bytes_up"]
    of_all = {key: sum(sent[key] for sent in record["round"].values()) for key in ("bytes_up", "bytes_down")}
    assert record["round_of_all"] == {"clients": 3, **of_all}
    sums = {key: value for key, value in rows["all clients"].items() if value}
    up, down = map(str, of_all.values())
    assert sums == {"holder": "all clients", "clients": "3", "round_up_bytes": up, "round_down_bytes": down}
    whole = record["references"]["full_fine_tuning"]
    assert whole["optimizer"] == 2 * whole["gradients"] == 2 * whole["frozen_weights"]


@pytest.mark.slow
def test_picture(config_file, report, tmp_path):
    path = config_file("causal-lm")
    report(path, "--plot", tmp_path / "where.png", "--json")
    report(path, "--plot", tmp_path / "where.svg", "--json")
    with Image.open(tmp_path / "where.png") as picture:
        assert picture.width > 600
    assert (tmp_path / "where.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


@pytest.mark.slow
def test_many_clients_are_counted(config_file):
    plan = make_plan(load_config(config_file("causal-lm", clients={"c": {"task_group": "g", "count": 20}})).config)
    record = predict(plan, {}).record()
    labels = [row.label for row in predicted_rows(record)]
    assert labels == ["a", "b-1 (2 alike)", "c-1 (20 alike)", "server", "full fine-tuning", "unsplit LoRA"]
    clients = {f"{'xyz'[i % 3]}-{i}": {**record["clients"]["a"], "peak": i, "alike": i} for i in range(14)}
    labels = [row.label for row in predicted_rows(record | {"clients": clients})]
    assert labels[:3] == ["x (largest of 5)", "y (largest of 5)", "z (largest of 4)"], "of kinds, too, there are many"
    figures = {"measured": {"total": 1}, "predicted": {}, "error_percent": {}}
    assert list(one_a_kind(dict.fromkeys(map(str, range(20)), figures))) == ["0 (20 alike)"]


def test_many_clients_are_one_row_with_their_number(config_file, report):
    """Figures are those of a few of them; what is one says so."""

    def of(count, *form):
        return report(config_file("causal-lm", clients={"c": {"task_group": "g", "count": count}}), *form)

    few, many = (json.loads(of(count, "--json")) for count in (3, 999_000))
    assert few["clients"].keys() == {"a", "b-1", "b-2", "c-1", "c-2", "c-3"}
    assert many["clients"].keys() == many["round"].keys() == {"a", "b-1", "c-1"}
    assert {name: parts.pop("count") for name, parts in many["clients"].items()} == {"a": 1, "b-1": 2, "c-1": 999_000}
    for key in ("bytes_up", "bytes_down"):
        a, b, c = (many["round"][name][key] for name in ("a", "b-1", "c-1"))
        assert (few["round_of_all"][key], many["round_of_all"][key]) == (a + 2 * b + 3 * c, a + 2 * b + 999_000 * c)
    for key in ("clients", "round"):
        assert many[key] == {name: few[key][name] for name in many[key]}
    assert [many[key] for key in ("server", "references")] == [few[key] for key in ("server", "references")]
    note = "shown as one, since there are more than 10,000 clients: 2 clients like b-1, 999,000 clients like c-1"
    assert set(many["notes"]) - set(few["notes"]) == {note}
    rows = list(csv.DictReader(io.StringIO(of(999_000, "--csv"))))
    assert [(row["holder"], row["clients"]) for row in rows][:4] == [
        ("a", "1"),
        ("b-1", "2"),
        ("c-1", "999000"),
        ("server", ""),
    ]
    assert [row["clients"] for row in csv.DictReader(io.StringIO(of(3, "--csv")))][:7] == [*"111111", ""]
    text = " ".join(of(999_000).split())
    assert "c-1 (999,000" in text and note in text and "c-1 999,000 " in text


@pytest.mark.slow
def test_a_client_measured_in_a_process_of_its_own(config_file):
    path = config_file("causal-lm")
    plan = make_plan(load_config(path, ["clients.a.checkpointing=true"]).config)
    shape = Shape(4, 32, True)
    found = measure_client(path, ["clients.a.checkpointing=true"], "a", shape)
    said = predict(plan, {}, {"a": shape}).clients["a"]
    for part in ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "cut_buffers"):
        assert found.parts[part] == getattr(said, part)
    assert said.peak == pytest.approx(found.peak, rel=0.05)
    assert found.resident > 0


@pytest.mark.slow
def test_bad_usage(config_file, report, tmp_path, make_run_folder):
    path = config_file("causal-lm")
    assert "not both" in report(path, "--json", "--csv", code=2)
    assert "where.png or where.svg" in report(path, "--plot", tmp_path / "where.pdf", code=2)
    assert "no such file" in report(tmp_path / "none.yaml", code=2)
    assert "File name too long" in report("x" * 500, code=3)
    assert "key=value is for configs" in report(make_run_folder, "training.rounds=3", code=2)
    assert "--measure is for configs" in report(make_run_folder, "--measure", code=2)
    assert "cannot be written" in report(path, "--plot", tmp_path / "no" / "where.png", code=1)
    assert "model.split_layer: 9 is out of range" in report(path, "model.split_layer=9", code=2)


@pytest.fixture
def make_run_folder(tmp_path):
    folder = tmp_path / "a-run"
    folder.mkdir()
    return folder


def test_a_damaged_manifest_is_named(make_run_folder, report):
    (make_run_folder / "manifest.json").write_text("[]", encoding="utf-8")
    assert "manifest.json is damaged: no status" in report(make_run_folder, code=3)


def test_run_whose_model_is_gone(config_file, report, tmp_path):
    run = train(config_file("sequence-classification", training={"rounds": 1}))
    text = (run.path / "config.yaml").read_text(encoding="utf-8").replace("split_layer: 2", "split_layer: 3")
    (run.path / "config.yaml").write_text(
        text.replace("model:\n  name: ", "model:\n  name: /nowhere"), encoding="utf-8"
    )
    assert "no prediction:" in report(run.path)
    assert json.loads(report(run.path, "--json"))["prediction"] is None
    assert open_run(run.path).read_json("memory.json")["clients"].keys() == {"a", "b-1", "b-2"}


@pytest.mark.slow
@pytest.mark.parametrize("method", discovery.names("aggregation.methods"))
def test_bytes_and_memory_of_every_method(config_file, method):
    """To the byte, for clients whose batches are full; rounds after the first, where all methods are at work. Of one
    that trains A and B in turn, the prediction is that of the dearer turn, B in odd rounds."""
    path = config_file("causal-lm", training={"max_length": 4, "rounds": 3}, aggregation=asked(method))
    run, prediction = train(path), predict(make_plan(load_config(path).config), {})
    rounds = (3,) if method == "rolora" else (2, 3)
    full = [x for x in run.read_lines("clients.jsonl") if x["round"] in rounds and x["examples"] == 2 * 4]
    assert full
    measured = run.read_json("memory.json")["clients"]
    for line in full:
        sent, memory = prediction.rounds[line["client"]], prediction.clients[line["client"]]
        assert (line["bytes_up"], line["bytes_down"]) == (sent.up, sent.down)
        for part in ("adapters", "gradients", "optimizer"):
            assert measured[line["client"]][part] == getattr(memory, part)
