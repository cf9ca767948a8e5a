"""Bad input to ``atlas train``: the exit code, one line that says what and where, and nothing half written."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from support.tiny_models import varied

from atlas_cli.cli import main
from atlas_cli.experiment import end_of_run
from atlas_cli.models.families import gpt2

ROWS = [f"the film was {word} {i},{label}" for i in range(10) for word, label in (("good", "pos"), ("bad", "neg"))]


@pytest.fixture
def write(tmp_path, monkeypatch, model_folder):
    """``write(change)``: the config after ``change(config)``, as config.yaml in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("\n".join(["text,label", *ROWS]) + "\n", encoding="utf-8")

    def make(change=lambda config: None, family="bert") -> str:
        config = {
            "name": "toy",
            "device": "cpu",
            "model": {"name": model_folder(family), "split_layer": 2},
            "task_groups": {"g": {"task": "sequence-classification", "data": {"files": "data.csv"}}},
            "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2}},
            "training": {"rounds": 2, "local_steps": 3, "batch_size": 4, "max_length": 32},
        }
        change(config)
        Path("config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return "config.yaml"

    return make


def put(*keys, value):
    """A change that sets a nested key."""

    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def file(name, content):
    """A change that writes a data file and reads it as the group's data."""

    def change(config):
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        config["task_groups"]["g"]["data"] = {"files": name}

    return change


def both(*changes):
    def change(config):
        for each in changes:
            each(config)

    return change


GROUP = ("task_groups", "g")
PROBLEMS = {
    "unknown key": (put("clients", "a", "rnak", value=4), 2, "rnak is not a known key; did you mean rank?"),
    "rank 0": (put("clients", "a", "rank", value=0), 2, "clients.a.rank: must be at least 1"),
    "rank above the layer": (put("clients", "a", "rank", value=33), 2, "clients.a.rank: rank 33 is above 32"),
    "default rank above the layer": (
        both(lambda config: config["clients"]["a"].pop("rank"), put("lora", value={"rank": 33})),
        2,
        "lora.rank: rank 33 is above 32",
    ),
    "server rank above the layer": (put("server", value={"rank": 40}), 2, "server.rank: rank 40 is above 32"),
    "rank of a layer on the server": (put("clients", "a", "rank", value={2: 4}), 2, "layer 2 is not on the client"),
    "split layer 0": (put("model", "split_layer", value=0), 2, "model.split_layer: must be at least 1, got 0"),
    "split layer too large": (put("model", "split_layer", value=5), 2, "model.split_layer: 5 is out of range"),
    "server rank without layers": (
        both(put("model", "split_layer", value=4), put("server", value={"rank": 2})),
        2,
        "the server half has no layers at split_layer 4",
    ),
    "client in no group": (put("clients", "a", "task_group", value="gg"), 2, "no task group 'gg'; did you mean g?"),
    "group without clients": (
        put("task_groups", "h", value={"task": "causal-lm", "data": {"files": "data.csv"}}),
        2,
        "task_groups.h: no client trains this group",
    ),
    "no clients": (put("clients", value={}), 2, "clients"),
    "fewer examples than clients": (put("clients", "b", "count", value=40), 2, "for 41 clients"),
    "label outside the classes": (
        put(*GROUP, "classes", value=["pos", "other"]),
        2,
        "row 2 of the training data has the label 'neg'; expected",
    ),
    "text column missing": (put(*GROUP, "data", "text", value="txt"), 2, "'txt'"),
    "no label column": (file("x.csv", "text\nthe film\nthe game\n"), 2, "label"),
    "one class": (
        file("x.csv", "text,label\n" + "".join(f"{i},pos\n" for i in range(9))),
        2,
        "rows have the label 'pos'; at least 2",
    ),
    "not UTF-8": (file("x.csv", b"text,label\nthe caf\xe9,pos\n"), 2, "x.csv:2: byte 0xe9 at offset 18 is not UTF-8"),
    "ragged CSV": (file("x.csv", "text,label\na,b,c\n"), 2, "x.csv:2: 3 fields, but the header has 2"),
    "empty file": (file("x.csv", ""), 2, "x.csv is empty"),
    "data file missing": (put(*GROUP, "data", value={"files": "dta.csv"}), 3, "no file dta.csv; did you mean data.csv"),
    "model folder missing": (put("model", "name", value="./nothing"), 3, "./nothing does not exist"),
    "folder without a model": (put("model", "name", value="."), 3, "no config.json"),
    "no such corpus": (put(*GROUP, "data", value={"corpus": "trec-question"}), 2, "trec-questions"),
    "language model on an encoder": (put(*GROUP, "task", value="causal-lm"), 2, "causal-lm needs a decoder"),
    "unknown task": (put(*GROUP, "task", value="classification"), 2, "'classification' is not known"),
    "unknown method": (put("aggregation", value={"method": "zeropad"}), 2, "did you mean zero-pad?"),
    "targets that are not there": (
        put("lora", value={"targets": ["querry"]}),
        2,
        "no linear layer of a block is named 'querry'; expected",
    ),
    "too long for the model": (
        put("training", "max_length", value=65),
        2,
        "65 tokens are more than the model's 64 positions",
    ),
    "no such device": (put("device", value="cuda:7"), 2, "device: this machine has no cuda device"),
    "labels on the client of a baseline": (
        both(put("mode", value="federated"), put("training", "labels", value="client")),
        2,
        "labels: client needs mode: split-federated",
    ),
    "output dir is a file": (put("output", value={"dir": "data.csv"}), 1, "cannot write data.csv: it, or a folder"),
    "output dir in a file": (put("output", value={"dir": "data.csv/runs"}), 1, "a file; choose another folder"),
}
if sys.platform == "linux":
    PROBLEMS["output dir that nobody can write"] = (put("output", value={"dir": "/proc/runs"}), 1, "cannot write /proc")


def one_error(capsys, says):
    """One line on standard error, no traceback; the line."""
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ") and says in lines[0], lines[0]
    return lines[0]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_bad_input(write, capsys, problem):
    change, code, says = PROBLEMS[problem]
    path = write(change)
    before = {name: name.read_bytes() for name in Path().rglob("*") if name.is_file()}
    assert main(["train", path]) == code
    line = one_error(capsys, says)
    if code == 2:
        assert line.startswith("error: config.yaml:"), line  # file and line of the key
    assert {name: name.read_bytes() for name in Path().rglob("*") if name.is_file()} == before
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing.yaml"], 2, "nothing.yaml"),
        (["."], 2, "."),
        (["config.yaml", "training.rounds=0"], 2, "training.rounds"),
        (["config.yaml", "training.ruonds=1"], 2, "did you mean rounds?"),
        (["config.yaml", "training.rounds"], 2, "training.rounds"),
        (["config.yaml", "clients.c.rank=4"], 2, "clients.c"),
        (["broken.yaml"], 2, "broken.yaml:2: not valid YAML"),
        (["twice.yaml"], 2, "twice.yaml:2"),
        (["latin.yaml"], 2, "latin.yaml"),
        ([], 2, "give a config"),
        (["--resume", "nowhere"], 3, "nowhere"),
        (["config.yaml", "--resume", "nowhere"], 2, "leave config.yaml out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_files_and_arguments(write, capsys, arguments, code, says):
    write()
    Path("broken.yaml").write_text("name: x\ntraining: {rounds: 1\n", encoding="utf-8")
    Path("twice.yaml").write_text("name: x\nname: y\n", encoding="utf-8")
    Path("latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert main(["train", *arguments]) == code
    one_error(capsys, says)
    assert not Path("runs").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(write, capsys, tmp_path):
    path = write()
    tmp_path.chmod(0o555)
    try:
        assert main(["train", path]) == 1
    finally:
        tmp_path.chmod(0o755)
    one_error(capsys, "cannot write runs")


def the_run():
    (run,) = Path("runs").iterdir()
    return run, json.loads((run / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_values_that_are_not_finite_stop_the_run_and_keep_what_it_wrote(write, capsys, mode):
    path = write(both(put("mode", value=mode), put("server", value={"rank": 2})))
    lr = ["training.client_optimizer.lr=1e30", "training.server_optimizer.lr=1e30", "training.max_grad_norm=null"]
    assert main(["train", path, *lr]) == 4
    line = one_error(capsys, "is not finite; try a lower learning rate")
    assert "client" in line and "round 1" in line
    run, manifest = the_run()
    assert manifest["status"] == "failed" and manifest["error"] in line
    assert "failed: NonFiniteError" in (run / "log.txt").read_text(encoding="utf-8")
    assert [json.loads(text)["round"] for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()] == [
        0
    ]
    assert (run / "config.yaml").is_file() and not (run / "adapters").exists()


def test_interrupt(write, capsys, monkeypatch):
    path = write()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(end_of_run, "export_adapters", interrupted)
    assert main(["train", path]) == 130
    assert "Traceback" not in "".join(capsys.readouterr())
    assert the_run()[1]["status"] == "interrupted"


def test_a_split_that_is_not_the_model_is_not_trained(write, capsys, monkeypatch):
    """Positions added twice, the classical fault: the server half keeps its position embedding."""
    faulty = varied(gpt2.Family(), input_side={k: v for k, v in gpt2.Family.input_side.items() if k != "wpe"})
    monkeypatch.setattr(gpt2, "Family", type(faulty))
    assert main(["train", write(family="gpt2")]) == 1
    line = one_error(capsys, "the split at layer 2 is not the unsplit model for task group g: loss differs by 0.")
    assert line.endswith("not trained")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_same_second_same_name_makes_a_second_directory(write, capsys, monkeypatch):
    monkeypatch.setattr(end_of_run, "write_report", lambda run, manifest: run.write_text("report.html", "<svg></svg>"))
    path = write(put("training", value={"rounds": 1, "local_steps": 1, "max_length": 32}))
    assert main(["train", path]) == main(["train", path]) == 0
    assert len(list(Path("runs").iterdir())) == 2


BROKEN_METHOD = """
from atlas_cli.aggregation.methods import zero_pad


class Method(zero_pad.Method):
    def aggregate(self, current, updates, context):
        return super().aggregate(current, updates, context) if context.round < 2 else updates / 0
"""


@pytest.mark.slow
def test_an_error_of_a_plugin_names_it_and_where_it_was(write, capsys, install):
    install("lab-broken", {"lab_broken": BROKEN_METHOD}, "[atlas.aggregation]\nbroken = lab_broken\n")
    path = write(put("aggregation", value={"method": "broken"}))
    assert main(["train", path]) == 1
    what = "Method.aggregate raised TypeError: unsupported operand type(s) for /: 'list' and 'int'"
    said = f"lab_broken.py, line 7): {what}, in round 2, task group g"
    line = one_error(capsys, said)
    run, manifest = the_run()
    assert line.startswith(f"error: {manifest['error']}; the traceback is in {run / 'log.txt'}; round 1 is kept")
    assert manifest["error"].startswith("aggregation method 'broken' (") and manifest["error"].endswith(said)
    assert "Traceback" in (run / "log.txt").read_text(encoding="utf-8") and "updates / 0" in (
        run / "log.txt"
    ).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_goes_on_with_a_mended_plugin_where_that_is_asked_for_and_says_so(write, capsys, install, tmp_path):
    install("lab-broken", {"lab_broken": BROKEN_METHOD}, "[atlas.aggregation]\nbroken = lab_broken\n")
    assert main(["train", write(put("aggregation", value={"method": "broken"}))]) == 1
    run, manifest = the_run()
    resume = f"atlas train --resume {run} --changed-code"
    assert capsys.readouterr().err.endswith(f"round 1 is kept; to go on when its code is mended: {resume}\n")

    file = tmp_path / "lab-broken/lab_broken.py"
    file.write_text(
        BROKEN_METHOD.replace("updates / 0", "super().aggregate(current, updates, context)  # mended"), encoding="utf-8"
    )
    del sys.modules["lab_broken"]
    assert main(["train", "--resume", str(run)]) == 2
    one_error(capsys, "code that computes has changed: lab_broken.py; restore it or start anew, or go on with it")
    assert main(resume.split()[1:]) == 0
    assert "warning: goes on with changed code after round 1: lab_broken.py" in capsys.readouterr().out
    first, then = the_run()[1]["parts"]
    assert "changed_code" not in first and then["after_round"] == 1
    before, now = manifest["inputs"]["code"]["lab_broken.py"], the_run()[1]["inputs"]["code"]["lab_broken.py"]
    assert then["changed_code"] == {"lab_broken.py": {"before": before, "now": now}} and before != now
    assert "after round 1: lab_broken.py" in (run / "report.html").read_text("utf-8")
    assert main(["train", "config.yaml", "--changed-code"]) == 2
    one_error(capsys, "--changed-code goes with --resume")


@pytest.mark.parametrize("place", ["config.yaml", "config.yaml/runs"])
def test_an_output_dir_that_is_a_file_is_refused_before_anything_is_loaded(place, write, monkeypatch, capsys):
    monkeypatch.setattr("atlas_cli.experiment.session._ready", None)
    assert main(["train", write(), f"output.dir={place}"]) == 1
    one_error(capsys, "it, or a folder above it, is a file; choose another folder with output.dir")
