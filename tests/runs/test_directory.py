import errno
import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from atlas_cli.errors import OutputError, ResourceError
from atlas_cli.runs.directory import RunDirectory, open_run
from atlas_cli.runs.listing import manifests, newest_run

NOW = datetime(2025, 1, 31, 12, 30, 5)


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "example", 7, NOW)


def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_create_never_reuses_a_folder(tmp_path):
    base = tmp_path / "deep" / "runs"
    names = [RunDirectory.create(base, "example", 7, NOW).path.name for _ in range(3)]
    assert names == ["20250131-123005_example_7", "20250131-123005_example_7-2", "20250131-123005_example_7-3"]


def test_create_leaves_what_is_there_alone(tmp_path):
    (tmp_path / "20250131-123005_example_7").write_text("mine", encoding="utf-8")
    assert RunDirectory.create(tmp_path, "example", 7, NOW).path.name.endswith("-2")
    assert (tmp_path / "20250131-123005_example_7").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("base", ["file", "file/below"])
def test_create_under_a_file_is_refused(tmp_path, base):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"is a file; choose another folder with output\.dir") as caught:
        RunDirectory.create(tmp_path / base, "example", 7, NOW)
    assert caught.value.exit_code == 1
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_create_under_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="make it writable"):
            RunDirectory.create(tmp_path / "runs", "example", 7, NOW)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left on .*; free some"),
        (errno.EACCES, "cannot write .*; make it writable"),
        (errno.EROFS, "cannot write .*; make it writable"),
        (errno.EIO, "cannot write .*Input/output error"),
    ],
)
def test_create_that_fails_removes_what_it_made(tmp_path, monkeypatch, code, message):
    base = tmp_path / "deep" / "runs"
    monkeypatch.setattr(Path, "open", failing(code))  # the folders can be made, the first file cannot
    with pytest.raises(OutputError, match=message) as caught:
        RunDirectory.create(base, "example", 7, NOW)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_create_that_fails_keeps_the_runs_of_others(tmp_path, run, monkeypatch):
    monkeypatch.setattr(Path, "open", failing(errno.ENOSPC))
    with pytest.raises(OutputError):
        RunDirectory.create(tmp_path, "other", 7, NOW)
    assert list(tmp_path.iterdir()) == [run.path]
    assert (run.path / "log.txt").exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(run, monkeypatch, step):
    run.write_json("manifest.json", {"status": "running"})
    monkeypatch.setattr(os, step, failing(errno.ENOSPC))
    with pytest.raises(OutputError, match="no space left"):
        run.write_json("manifest.json", {"status": "finished"})
    assert run.read_json("manifest.json") == {"status": "running"}
    assert sorted(p.name for p in run.path.iterdir()) == ["log.txt", "manifest.json"]


def test_a_value_that_json_cannot_hold_keeps_the_old_file(run):
    run.write_json("manifest.json", {"a": 1})
    with pytest.raises(TypeError):
        run.write_json("manifest.json", {"a": object()})
    assert run.read_json("manifest.json") == {"a": 1}


def test_json_is_strict_and_floats_that_are_not_finite_are_null(run):
    run.write_json("a.json", {"x": [float("nan"), (float("inf"), 1.5)], 2: "é\u2028"})
    text = (run.path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"x": [None, [None, 1.5]], "2": "é\u2028"}


def test_text_that_is_not_unicode_is_written_as_an_escape(run):
    run.write_json("a.json", {"command": os.fsdecode(b"caf\xe9.yaml")})
    assert run.read_json("a.json") == {"command": "caf\udce9.yaml"}


def test_append_then_read(run):
    run.append("other.jsonl", [{"a": "one\u2028line\n"}, {"a": float("nan")}])
    run.append("other.jsonl", [])
    run.append("other.jsonl", [{"a": 3}])
    assert run.read_lines("other.jsonl") == [{"a": "one\u2028line\n"}, {"a": None}, {"a": 3}]
    assert run.read_lines("never.jsonl") == []


def test_an_append_on_a_full_disk_leaves_no_half_line(run, monkeypatch):
    run.append("other.jsonl", [{"a": 1}])
    real = Path.open

    def open_full(path, mode="r", **options):
        file = real(path, mode, **options)
        if "a" in mode:
            write = file.write

            class Full:
                def __enter__(self):
                    return self

                def __exit__(self, *exc):
                    file.close()

                def write(self, data):
                    write(data[: len(data) // 2])
                    file.flush()
                    raise OSError(errno.ENOSPC, "No space left on device")

            return Full()
        return file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match="no space left on"):
        run.append("other.jsonl", [{"a": 2}, {"a": 3}])
    monkeypatch.undo()
    assert run.read_lines("other.jsonl") == [{"a": 1}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device")
def test_the_full_device_is_told_from_other_failures(run):
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="no space left on"):
        run.append("metrics.jsonl", [{"a": 1}])


def test_log_lines_have_a_time(run):
    run.log("one\ntwo")
    lines = (run.path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["run directory created", "one", "two"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)


def test_tensors_come_back_even_as_views_of_one_buffer(run):
    flat = torch.arange(12, dtype=torch.float32)
    tensors = {"a": flat[:6].view(2, 3).T, "b": flat[3:], "c": torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}
    run.save_tensors("adapters/phone-1/adapter_model.safetensors", tensors, {"format": "pt"})
    with safe_open(run.path / "adapters/phone-1/adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert all(torch.equal(file.get_tensor(key), tensors[key]) for key in tensors)
    assert len(list((run.path / "adapters/phone-1").iterdir())) == 1


def test_a_damaged_line_is_named(run):
    (run.path / "other.jsonl").write_text('{"a": 1}\n{"a"\n', encoding="utf-8")
    with pytest.raises(ResourceError, match=r"other\.jsonl:2 is damaged") as caught:
        run.read_lines("other.jsonl")
    assert caught.value.exit_code == 3


def test_a_file_that_is_not_text_or_not_there_is_named(run):
    (run.path / "manifest.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ResourceError, match=r"manifest\.json is damaged: not UTF-8 at byte 7"):
        run.read_json("manifest.json")
    with pytest.raises(ResourceError, match=r"has no memory\.json"):
        run.read_json("memory.json")


def test_open_run_wants_a_manifest(run, tmp_path):
    with pytest.raises(ResourceError, match=r"not a run directory: it has no manifest\.json"):
        open_run(run.path)
    with pytest.raises(ResourceError, match="no such run directory"):
        open_run(tmp_path / "none")
    run.write_json("manifest.json", {})
    assert open_run(str(run.path)) == run


def test_newest_run_goes_by_the_start_and_passes_over_other_folders(tmp_path):
    with pytest.raises(ResourceError, match="atlas train"):
        newest_run(tmp_path)
    for seconds in (9, 30, 10):
        RunDirectory.create(tmp_path, "b", 1, NOW.replace(second=seconds)).write_json("manifest.json", {})
    (tmp_path / "zzz").mkdir()
    (tmp_path / "file").touch()
    assert newest_run(tmp_path).path.name == "20250131-123030_b_1"


def test_runs_of_hosts_in_other_time_zones_are_in_the_order_of_their_start(tmp_path):
    """Their names have local time, which goes back an hour once a year, too."""
    for hour, started in ((12, "2025-01-31T11:00:00.5+00:00"), (3, "2025-01-31T11:00:01+00:00")):
        RunDirectory.create(tmp_path, "b", 1, NOW.replace(hour=hour)).write_json("manifest.json", {"started": started})
    assert [path.parent.name[9:11] for path in manifests(tmp_path)] == ["03", "12"]


def test_a_folder_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    assert manifests(tmp_path / "nothing") == manifests("x" * 5000) == []
    monkeypatch.setattr(os, "scandir", failing(errno.EACCES))
    with pytest.raises(ResourceError, match="cannot look for runs"):
        manifests(tmp_path)
