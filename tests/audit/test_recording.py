"""What is kept of the wire: every byte that the ledger counted, and nothing that does not cross it."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from atlas_cli.cli import main
from atlas_cli.runs.checkpoint import load_newest
from atlas_cli.wire.recorded_messages import recorded_messages

AUDIT = {"record": {"rounds": [1]}}


def files(run):
    return {str(p.relative_to(run.path)): p.read_bytes() for p in (run.path / "messages").glob("round-*/*/*")}


SMALL = {
    "wire": {"header": "compact", "activations": {"codec": "int4"}},
    "training": {"rounds": 1, "local_steps": 1, "batch_size": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "suffixes"), [({}, {".safetensors"}), (SMALL, {".compact"})])
def test_what_is_recorded_is_what_the_ledger_counted(trained, changes, suffixes):
    run = trained(audit=AUDIT, **changes)
    assert {Path(name).suffix for name in files(run)} == suffixes
    counted, kept = Counter(), Counter()
    for line in run.read_lines("messages.jsonl"):
        if line["round"] == 1:
            counted[line["client"], line["kind"], line["direction"]] += line["bytes"]
    for message in recorded_messages(run):
        assert message.message().client == message.client and message.bytes == len(message.content())
        if message.round == 1:
            kept[message.client, message.kind, message.direction] += message.path.stat().st_size
    assert kept == counted
    before = [m for m in recorded_messages(run) if m.round == 0]
    assert {(m.kind, m.direction) for m in before} == {("adapters", "down")} and len(before) == 3
    assert max(m.round for m in recorded_messages(run)) == 1
    of_manifest = run.read_json("manifest.json")["recording"]
    assert of_manifest == {"messages": len(files(run)), "bytes": sum(map(len, files(run).values())), "complete": True}


def test_recording_changes_nothing(trained):
    plain, kept = trained(), trained(audit=AUDIT)
    assert not (plain.path / "messages").exists()
    tensors = [load_newest(run)[0].tensors for run in (plain, kept)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    unlike = {"seconds", "samples_per_second"}
    lines = [
        [{k: v for k, v in m.items() if k not in unlike} for m in run.read_lines("metrics.jsonl")]
        for run in (plain, kept)
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_labels_and_texts_that_stay_on_the_client_are_not_there(trained, task):
    run = trained(task=task, audit=AUDIT, training={"labels": "client"})
    allowed = {
        "activations": {"activations", "attention_mask"},
        "gradients": {"gradients"},
        "features": {"features"},
        "feature-gradients": {"gradients", "count"},
    }
    kinds = set()
    for message in recorded_messages(run):
        tensors = message.message().tensors
        kinds.add(message.kind)
        if message.kind in allowed:
            assert tensors.keys() == allowed[message.kind]
        # no token id and no label in disguise: whole numbers are the mask and how many labels there are
        whole = {name for name, t in tensors.items() if not t.is_floating_point()}
        assert whole <= {"attention_mask", "count"}
        if message.kind in ("adapters", "head"):
            assert all(name.endswith(("lora_A", "lora_B")) or name.startswith("head.") for name in tensors)
    assert kinds >= allowed.keys() | {"adapters"}


@pytest.mark.slow
def test_only_the_clients_and_bytes_that_were_asked_for(trained):
    run = trained(audit={"record": {"rounds": [2], "clients": ["b-1"], "limit": "15 kB"}})
    assert {m.client for m in recorded_messages(run)} == {"b-1"}
    assert sum(map(len, files(run).values())) <= 15_000
    assert run.read_json("manifest.json")["recording"]["complete"] is False
    assert "audit.record.limit, 15 kB, is reached" in (run.path / "log.txt").read_text(encoding="utf-8")


@pytest.fixture
def copied(trained, tmp_path):
    run = trained(audit=AUDIT)
    return type(run)(shutil.copytree(run.path, tmp_path / "run"))


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


HARM = {
    "altered": (flip, "not the message that was recorded"),
    "gone": (lambda path: path.unlink(), "is missing, which messages/index.jsonl lists"),
    "more": (
        lambda path: shutil.copy(path, path.with_name("00099-adapters-up.safetensors")),
        "is not in messages/index",
    ),
    "not listed": (
        lambda path: [
            index := path.parents[2] / "index.jsonl",
            index.write_text(index.read_text(encoding="utf-8") * 2, encoding="utf-8"),
        ],
        "more was added after the run ended",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_messages_that_are_not_what_was_recorded(copied, capsys, harm):
    """Neither the audit nor a resume takes them."""
    first = next(m for m in recorded_messages(copied) if m.round == 1 and m.kind == "activations")
    act, says = HARM[harm]
    act(first.path)
    assert main(["audit", str(copied.path), "--attack", "nearest-embedding"]) == 3
    assert says in capsys.readouterr().err
    code = main(["train", "--resume", str(copied.path), "training.rounds=3", "output.dir=" + str(copied.path.parent)])
    out, err = capsys.readouterr()
    if harm == "not listed":  # after what the checkpoint knows of: done again
        assert code == 0 and "of messages/index.jsonl" in out
    else:
        assert code == 3 and says in err


@pytest.mark.slow
def test_a_limit_that_was_reached_stays_reached(trained, tmp_path):
    """What fits after the run went on would leave a gap."""
    run = trained(audit={"record": {"rounds": [1], "limit": "15 kB"}}, training={"rounds": 1})
    copy = type(run)(shutil.copytree(run.path, tmp_path / "run"))
    kept = len(files(copy))
    assert main(["train", "--resume", str(copy.path), "training.rounds=2", "audit.record.rounds=[1,2]"]) == 0
    assert len(files(copy)) == kept and copy.read_json("manifest.json")["recording"]["complete"] is False


@pytest.mark.slow
def test_a_run_that_goes_on_records_what_one_that_was_not_stopped_does(trained, tmp_path, monkeypatch, toy):
    import yaml

    from atlas_cli.experiment import end_of_run

    whole = trained(audit={"record": {"rounds": [1, 2]}})
    monkeypatch.setattr(end_of_run, "write_report", lambda run, manifest: run.write_text("report.html", ""))
    config = toy(audit={"record": {"rounds": [1]}}, training={"rounds": 1}, output={"dir": str(tmp_path / "runs")})
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    assert main(["train", str(tmp_path / "toy.yaml")]) == 0
    (made,) = (tmp_path / "runs").glob("*")
    assert main(["train", "--resume", str(made), "training.rounds=2", "audit.record.rounds=[1, 2]"]) == 0
    resumed = type(whole)(made)
    assert files(resumed).keys() >= files(whole).keys()
    assert all(content == files(resumed)[name] for name, content in files(whole).items())


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"rounds": [3]}, "audit.record.rounds.0: training has 2 rounds, got 3"),
        ({"clients": ["d"]}, "audit.record.clients.0: no client is named 'd'"),
        ({"limit": "5"}, "audit.record.limit"),
    ],
)
def test_bad_keys(toy, tmp_path, capsys, record, says):
    import yaml

    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy(audit={"record": record})), encoding="utf-8")
    assert main(["validate", str(tmp_path / "toy.yaml")]) == 2
    assert says in capsys.readouterr().err
