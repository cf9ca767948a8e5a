"""Checkpoints and adapters that are not what they say: every damage is found, named, and never a crash."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import sys

import pytest
import torch
from safetensors.torch import save

from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.errors import AtlasError, ResourceError
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.hashing import sha256_file
from atlas_cli.models.adapters.origin import read_origin
from atlas_cli.models.adapters.peft_reading import read_head, read_peft
from atlas_cli.runs.checkpoint import (
    MANIFEST,
    RECORDS,
    STATE,
    TENSORS,
    Checkpoint,
    folders,
    load_newest,
    save_checkpoint,
)
from atlas_cli.runs.directory import RunDirectory

SAMPLE = 300


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path, "toy", 0)
    for number in (1, 2):
        tensors = {f"w{i}": torch.full((3, 5), float(number + i)) for i in range(4)}
        save_checkpoint(run, Checkpoint(number, tensors, {"versions": {"g": number}, "clients": {}}))
    return run


def harmed(content: bytes, draw: random.Random) -> bytes:
    """One flipped bit, a cut end, bytes more, or a stretch of zeros."""
    kind, at = draw.choice(["flip", "cut", "more", "zeros"]), draw.randrange(len(content))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "more":
        return content[:at] + draw.randbytes(draw.randint(1, 9)) + content[at:]
    end = min(len(content), at + draw.randint(1, 64))
    return content[:at] + bytes(end - at) + content[end:]


def test_every_harm_to_a_checkpoint_is_found_and_the_one_before_is_used(run):
    newest = run.path / "checkpoints" / "round-000002"
    whole = {name: (newest / name).read_bytes() for name in (TENSORS, STATE, RECORDS, MANIFEST)}
    wanted = load_newest(run)[0]
    draw = random.Random(0)
    for _ in range(SAMPLE):
        name = draw.choice(list(whole))
        content = harmed(whole[name], draw)
        (newest / name).write_bytes(content)
        found, warnings = load_newest(run)
        if found.round == 2:  # nothing but the spacing of the JSON, or nothing at all, has changed
            assert (name == MANIFEST and json.loads(content) == json.loads(whole[name])) or content == whole[name]
            assert all(torch.equal(found.tensors[k], v) for k, v in wanted.tensors.items())
        else:
            assert found.round == 1 and len(warnings) == 1 and warnings[0].startswith("checkpoint round-000002 ")
            assert "\n" not in warnings[0]
        (newest / name).write_bytes(whole[name])


def rewritten(folder, **changes):
    """A manifest with changes, and hashes that are right for what is there."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in (TENSORS, STATE, RECORDS):
        if (folder / name).is_file():
            manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}), encoding="utf-8")


def facts(folder, **changes):
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {"files": {**files, **changes}}


HOSTILE = {
    "names another file": (
        lambda f: rewritten(f, **facts(f, **{"../../log.txt": {"bytes": 1, "sha256": ""}})),
        "other",
    ),
    "an absolute name": (lambda f: rewritten(f, **facts(f, **{"/etc/passwd": {"bytes": 1, "sha256": ""}})), "other"),
    "names no file": (lambda f: rewritten(f, files={}), "names other files"),
    "files is a list": (lambda f: rewritten(f, files=[TENSORS, STATE, RECORDS]), "AttributeError"),
    "absurd size": (
        lambda f: rewritten(f, **facts(f, **{TENSORS: {"bytes": 10**30, "sha256": ""}})),
        "bytes, expected 1000",
    ),
    "negative size": (lambda f: rewritten(f, **facts(f, **{TENSORS: {"bytes": -1, "sha256": ""}})), "expected -1"),
    "another version": (lambda f: rewritten(f, format=1), "has format 1, expected 4"),
    "another round": (lambda f: rewritten(f, round=7), "of another round"),
    "round is a text": (lambda f: rewritten(f, round="2"), "of another round"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "manifest.json is missing"),
    "no tensors": (lambda f: (f / TENSORS).unlink(), "state.safetensors is missing"),
    "manifest is a list": (lambda f: (f / MANIFEST).write_text("[]", encoding="utf-8"), "TypeError"),
    "manifest is nested": (lambda f: (f / MANIFEST).write_text("[" * 60_000, encoding="utf-8"), "RecursionError"),
    "manifest is huge": (lambda f: (f / MANIFEST).write_text(" " * 10**6, encoding="utf-8"), "too large"),
    "a folder": (lambda f: ((f / STATE).unlink(), (f / STATE).mkdir()), "not a plain file"),
    "tensors are no safetensors": (
        lambda f: ((f / TENSORS).write_bytes(b"PK\x03\x04" * 99), rewritten(f)),
        "SafetensorError",
    ),
    "header longer than the file": (
        lambda f: ((f / TENSORS).write_bytes(struct.pack("<Q", 2**62) + b"{}"), rewritten(f)),
        "SafetensorError",
    ),
    "tensors beyond the file": (
        lambda f: (
            (f / TENSORS).write_bytes(
                struct.pack("<Q", 72)
                + b'{"w":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,39999999996]}}'.ljust(72)
            ),
            rewritten(f),
        ),
        "SafetensorError",
    ),
}
if sys.platform != "win32":
    HOSTILE |= {
        "a link": (lambda f: ((f / STATE).unlink(), (f / STATE).symlink_to("/etc/passwd")), "not a plain file"),
        "a pipe": (lambda f: ((f / STATE).unlink(), os.mkfifo(f / STATE)), "not a plain file"),
    }


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_checkpoint(run, case):
    harm, says = HOSTILE[case]
    harm(run.path / "checkpoints" / "round-000002")
    found, (warning,) = load_newest(run)
    assert found.round == 1
    assert warning.startswith("checkpoint round-000002 ") and says in warning, warning


def test_checkpoints_of_an_earlier_format_say_which_version_can_go_on(run):
    for folder in folders(run):
        rewritten(folder, format=3)
    with pytest.raises(ResourceError) as error:
        load_newest(run)
    assert str(error.value) == (
        f"{run.path} has checkpoints of format 3, and this version reads format 4; finish the run with atlas 0.1.0, "
        "which wrote them, or start the experiment anew"
    )


def test_all_damaged(run):
    for folder in folders(run):
        (folder / MANIFEST).write_text("", encoding="utf-8")
    with pytest.raises(ResourceError, match=r"no checkpoint to go on from \(checkpoint round-000002 .*round-000001"):
        load_newest(run)


def test_only_whole_checkpoints_are_counted_and_the_newest_are_kept(run):
    (run.path / "checkpoints" / ".round-000009.tmp").mkdir()
    (run.path / "checkpoints" / "round-x").mkdir()
    for number in (3, 4, 1_000_000):
        save_checkpoint(run, Checkpoint(number, {}, {}), keep=3)
    assert [folder.name for folder in folders(run)] == ["round-000003", "round-000004", "round-1000000"]
    save_checkpoint(run, Checkpoint(4, {}, {}), keep=1)
    assert [folder.name for folder in folders(run)] == ["round-000004", "round-1000000"]


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of it to harm."""
    shutil.copytree(stopped_once, tmp_path / "runs" / stopped_once.name)
    return RunDirectory(tmp_path / "runs" / stopped_once.name)


def other_state(change):
    """A checkpoint whose hashes are right and whose content is not that of the run."""

    def harm(folder):
        from safetensors.torch import load_file

        tensors, state = load_file(folder / TENSORS), json.loads((folder / STATE).read_text(encoding="utf-8"))
        changed = change(tensors, state)
        (folder / TENSORS).write_bytes(save(tensors))
        (folder / STATE).write_text(json.dumps(state if changed is None else changed), encoding="utf-8")
        rewritten(folder)

    return harm


def first(tensors, part):
    return next(name for name in sorted(tensors) if part in name)


def owner(tensors):
    found = [name for name in sorted(tensors) if name.startswith("server/") and "/moments/" in name]
    return found[0].partition("/0/")[0]


def with_clients(state, **changes):
    return {**state, "clients": {**state["clients"], **changes}}


def with_records(state, change):
    return with_clients(state, records=[change(record) for record in state["clients"]["records"]])


WRONG = {
    "shape": lambda t, s: t.update({first(t, "lora_A"): torch.zeros(1, 1)}),
    "no shape": lambda t, s: t.update({first(t, "lora_A"): torch.tensor(1.0)}),
    "type": lambda t, s: t.update({first(t, "lora_B"): t[first(t, "lora_B")].half()}),
    "missing": lambda t, s: [t.pop(first(t, "merged/")), s][1],
    "more": lambda t, s: t.update({f"{first(t, 'exchanged/').rpartition('/')[0]}/zzz": torch.zeros(2)}),
    "more that nobody holds": lambda t, s: t.update({"clients/exchanged/0/zzz": torch.zeros(2)}),
    "moment": lambda t, s: t.update({first(t, "exp_avg"): torch.zeros(2, 2)}),
    "moment of nothing": lambda t, s: t.update({f"{owner(t)}/99/exp_avg": torch.zeros(2, 2)}),
    "moment without a number": lambda t, s: t.update({f"{owner(t)}/x/exp_avg": torch.zeros(2, 2)}),
    "moment of nobody": lambda t, s: t.update({"server/nobody/moments/0/exp_avg": torch.zeros(2, 2)}),
    "state is a list": lambda t, s: [],
    "state is empty": lambda t, s: {},
    "a part is missing": lambda t, s: {part: own for part, own in s.items() if part != "server"},
    "versions": lambda t, s: {**s, "aggregator": {"versions": 3}},
    "clients": lambda t, s: with_clients(s, clients=s["clients"]["clients"][1:]),
    "client of no record": lambda t, s: with_clients(s, clients=[99 for _ in s["clients"]["clients"]]),
    "record without version": lambda t, s: with_records(s, lambda record: record[1:]),
    "record that has nothing": lambda t, s: with_records(s, lambda record: [*record[:2], "", None, None, None]),
}


@pytest.fixture(scope="module")
def state(stopped_once):
    """The state of a federation that is built as that run's is when it goes on."""
    return RunState(build(load_config(stopped_once / "config.yaml").config))


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_of_another_run_is_refused(stopped, state, case):
    whole = load_newest(stopped)[0]
    other_state(WRONG[case])(folders(stopped)[-1])
    other, warnings = load_newest(stopped)
    assert (other.round, warnings) == (1, [])
    with pytest.raises(ResourceError) as error:
        state.restore(other.tensors, other.state, other.name)
    said = str(error.value)
    assert said.startswith("checkpoint round-000001 is not of this experiment: state.") and len(said.splitlines()) == 1
    state.restore(whole.tensors, whole.state, whole.name)  # the refusal is due to what was changed


def test_a_run_whose_checkpoint_is_of_another_stays_as_it_is(stopped, capsys):
    other_state(WRONG["record that has nothing"])(folders(stopped)[-1])
    before = (stopped.path / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", str(stopped.path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: checkpoint round-000001 is not of this experiment: state.")
    assert (stopped.path / "metrics.jsonl").read_bytes() == before


def test_a_run_of_an_earlier_version_is_refused_by_its_format_and_not_by_its_keys(stopped, capsys):
    for folder in folders(stopped):
        rewritten(folder, format=3)
    manifest = stopped.read_json("manifest.json")
    del manifest["config"]["screen"]  # as if that version did not have the key
    stopped.write_json("manifest.json", manifest)
    capsys.readouterr()
    assert main(["train", "--resume", str(stopped.path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("finish the run with atlas 0.1.0, which wrote them, or start the experiment anew")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: {},
        lambda m: {**m, "config": None},
        lambda m: {**m, "started": 3},
        lambda m: {**m, "config": {**m["config"], "training": 3}},
        lambda m: {**m, "config": {}},
    ],
)
def test_a_manifest_that_is_damaged(stopped, capsys, change):
    path = stopped.path / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    before = path.read_bytes()
    here = f"output.dir={stopped.path.parent}"  # not where the run was that this is a copy of
    newest = [str(stopped.path / "config.yaml"), here, "--resume", "auto"]
    for arguments in (["--resume", str(stopped.path)], newest):
        capsys.readouterr()
        assert main(["train", *arguments]) in (2, 3)
        (line,) = capsys.readouterr().err.splitlines()
        assert "unexpected" not in line
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "clients.jsonl", "messages.jsonl", "sums.jsonl"])
@pytest.mark.parametrize("harm", ["later", "earlier", "none"])
def test_records_that_are_damaged(stopped, capsys, name, harm):
    """What a power failure tore after the checkpoint is cut off; before it, nothing can be gone on with."""
    path = stopped.path / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    torn = {"later": [*lines, "\0" * 99 + "\n", *lines[-1:]], "earlier": [*lines[:1], "\0\n", *lines[1:]], "none": []}
    path.write_text("".join(torn[harm]), encoding="utf-8")
    capsys.readouterr()
    code = main(["train", "--resume", str(stopped.path)])
    out, err = capsys.readouterr()
    if harm == "later":
        assert (
            code == 0
            and not path.read_text(encoding="utf-8").count("\0")
            and path.read_text(encoding="utf-8").startswith("".join(lines))
        )
        assert name == "sums.jsonl" or f"lines of later rounds cut off: 2 of {name}" in out
    else:
        assert code == 3 and path.read_text(encoding="utf-8") == "".join(torn[harm])
        says = (
            "is not what was written"
            if name == "sums.jsonl"
            else {"earlier": ":2: ", "none": "ends after line 0"}[harm]
        )
        assert f"error: {path}" in err and says in err


def test_a_memory_file_that_is_gone_is_measured_anew_and_one_that_was_altered_is_refused(stopped, capsys):
    path = stopped.path / "memory.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"total": ', '"total": 1'), encoding="utf-8")
    assert main(["train", "--resume", str(stopped.path)]) == 3
    assert f"{path} is not what was written (by hash); restore it from a copy, or remove it" in capsys.readouterr().err
    path.unlink()
    assert main(["train", "--resume", str(stopped.path), "training.rounds=3"]) == 0
    assert "memory.json is missing: memory is measured anew in the next round" in capsys.readouterr().out
    assert stopped.read_json("memory.json")["measured_in_round"] == 2


@pytest.fixture(scope="session")
def exported(tmp_path_factory, model_folder):
    """An adapter folder as a run leaves it, and the base model that it is for."""
    from atlas_cli.config.schema.experiment import ModelConfig
    from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
    from atlas_cli.models.adapters.origin import Origin
    from atlas_cli.models.adapters.peft_format import peft_files
    from atlas_cli.models.frozen.load import load_base

    base = load_base(ModelConfig(name=model_folder("bert")))
    paths = [f"encoder.layer.{i}.attention.self.query" for i in range(2)]
    adapters = AdapterSet({path: LoRAAdapter(32, 32, 4, 16.0, 0.0, False) for path in paths})
    head = {"out.weight": torch.randn(2, 32)}
    origin = Origin("g", "b", "pretrained", None, None, "float32", base.sha256, "question-answering", [], "mean")
    given = {"alpha": 16.0, "dropout": 0.0, "rslora": False, "head": head, "origin": origin}
    files = peft_files(base, adapters, causal_lm=False, **given)
    folder = tmp_path_factory.mktemp("adapter")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder, base


@pytest.fixture
def adapter(exported, tmp_path):
    folder, base = exported
    return shutil.copytree(folder, tmp_path / "adapter"), base


def read_folder(folder, base):
    read_peft(folder, base)
    read_head(folder)
    read_origin(folder)


@pytest.mark.slow
def test_every_harm_to_an_exported_adapter_is_found(adapter):
    folder, base = adapter
    read_folder(folder, base)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(whole) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "origin.json",
        "SHA256SUMS",
    }
    draw = random.Random(1)
    for _ in range(SAMPLE):
        name = draw.choice(list(whole))
        content = harmed(whole[name], draw)
        if content != whole[name]:
            (folder / name).write_bytes(content)
            with pytest.raises(ResourceError, match=str(folder)):
                read_folder(folder, base)
            (folder / name).write_bytes(whole[name])


def tensors(folder, **named):
    (folder / "adapter_model.safetensors").write_bytes(save(named))


def config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def origin(folder, **changes):
    path = folder / "origin.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


NAME = "base_model.model.encoder.layer.0.attention.self.query.lora_"
FOREIGN = {
    "whole numbers": lambda f: tensors(
        f, **{NAME + "A.weight": torch.ones(4, 32, dtype=torch.int8), NAME + "B.weight": torch.ones(32, 4).char()}
    ),
    "no dimensions": lambda f: tensors(
        f, **{NAME + "A.weight": torch.tensor(1.0), NAME + "B.weight": torch.tensor(1.0)}
    ),
    "three dimensions": lambda f: tensors(
        f, **{NAME + "A.weight": torch.ones(4, 32, 1), NAME + "B.weight": torch.ones(32, 4)}
    ),
    "rank 0": lambda f: tensors(f, **{NAME + "A.weight": torch.ones(0, 32), NAME + "B.weight": torch.ones(32, 0)}),
    "header longer than the file": lambda f: (f / "adapter_model.safetensors").write_bytes(
        struct.pack("<Q", 2**40) + b"{}"
    ),
    "pickle": lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95" * 40),
    "head is no safetensors": lambda f: (f / "head.safetensors").write_bytes(b"{}"),
    "head of whole numbers": lambda f: (f / "head.safetensors").write_bytes(
        save({"out.weight": torch.ones(2, 32).int()})
    ),
    "nested config": lambda f: (f / "adapter_config.json").write_text("[" * 60_000, encoding="utf-8"),
    "alpha is a list": lambda f: config(f, lora_alpha=[1]),
    "alpha is infinite": lambda f: config(f, lora_alpha=1e999),
    "pattern that takes for ever": lambda f: config(f, alpha_pattern={"(([a-z])+.)+x": 3}),
    "rank pattern is a list": lambda f: config(f, alpha_pattern=[1, 2]),
    "head of NaN": lambda f: (f / "head.safetensors").write_bytes(save({"out.weight": torch.full((2, 32), torch.nan)})),
    "origin of another version": lambda f: (f / "origin.json").write_text('{"format": 2}', encoding="utf-8"),
    "origin with a number for text": lambda f: origin(f, task=3),
    "origin with one class as text": lambda f: origin(f, classes="a"),
    "origin is nested": lambda f: (f / "origin.json").write_text("[" * 60_000, encoding="utf-8"),
    "config is huge": lambda f: (f / "adapter_config.json").write_text(" " * 2**25, encoding="utf-8"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_adapter_that_is_not_what_it_says(adapter, case):
    folder, base = adapter
    (folder / "SHA256SUMS").unlink()
    FOREIGN[case](folder)
    with pytest.raises(AtlasError, match=str(folder)) as caught:
        read_folder(folder, base)
    assert "\n" not in str(caught.value)
