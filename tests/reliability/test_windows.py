"""The commands on Windows, as far as another system can tell: without what it lacks, and with files held as it does."""

import ast
import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import windows
from support.processes import when_training
from support.sources import trees

from atlas_cli import cli
from atlas_cli.cli import main
from atlas_cli.config.strict_yaml import load_file
from atlas_cli.errors import ConfigError, OutputError, ResourceError
from atlas_cli.models.files.resolve import locate
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.storage import moving
from atlas_cli.storage import writing as writing_module
from atlas_cli.storage.scratch_folders import OFFLOAD

CHANGES = {
    "clients": {f"c{i}": {"task_group": "g", "rank": 4 - i % 2} for i in range(1)},
    "aggregation": {"method": "fedex"},
    "audit": {"record": {"rounds": [1]}},
}


@pytest.fixture
def on_windows(monkeypatch, tmp_path):
    monkeypatch.setattr(moving, "_PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "dumb")
    windows.become(monkeypatch, tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="cannot see which files are mapped")
def test_train_both_interrupts_resume_audit_and_cluster(write, train, at_step, on_windows, capfd):
    path = write(**CHANGES, engine={"offload": "1 KiB", "prefix_cache": "1 KiB"})
    at_step(3, lambda: signal.raise_signal(signal.SIGINT))  # in round 2 of 3
    code, run = train(path)
    assert code == 130
    at_step(3, lambda: signal.raise_signal(signal.SIGBREAK))  # in round 3
    assert train("--resume", run.path)[0] == 130
    assert "round 2 is kept" in capfd.readouterr().err
    assert train("--resume", run.path)[0] == 0
    assert run.read_json("manifest.json")["status"] == "finished" and (run.path / "report.html").exists()
    assert sorted(p.name for p in run.path.glob("checkpoints/*")) == ["round-000002", "round-000003"]
    left = {path.name for path in run.path.parent.iterdir()} - {run.path.name}
    assert all(name.startswith(OFFLOAD) for name in left)  # what is mapped goes when the process ends, as seen below
    path = write(**CHANGES, engine={}, training={"rounds": 1})
    assert main(["audit", str(path)]) == 0
    assert main(["cluster", str(path), "--batches", "1", "--output", str(path.parent / "found")]) == 0


def names(call):
    return {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}


def mode_of(call):
    """The mode of a call that opens a file; None where it opens something else."""
    if isinstance(call.func, ast.Name):
        given = call.args[1] if len(call.args) > 1 else ast.Constant("r") if call.func.id == "open" else None
    else:
        given = call.args[0] if call.args and isinstance(call.func, ast.Attribute) else None
    named = getattr(call.func, "id", getattr(call.func, "attr", None)) == "open"
    mode = getattr(given, "value", None)
    return mode if named and isinstance(mode, str) and set(mode) <= set("rwxab+") else None


@pytest.mark.slow
def test_texts_are_utf_8_with_line_feeds_on_every_system():
    """Windows would write its code page, and two characters at the end of a line."""
    bare = []
    for path, tree in trees().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            what, given, mode = getattr(call.func, "attr", None), names(call), mode_of(call)
            reads = what == "read_text" and call.func.value and not call.args and "encoding" not in given
            writes = what == "write_text" and len(call.args) == 1 and given.get("newline") != "\n"
            text = mode is not None and "b" not in mode
            opens = text and ("encoding" not in given or (mode != "r" and given.get("newline") != "\n"))
            if reads or writes or opens:
                bare.append(f"{path.name}:{call.lineno}")
    assert bare == []


@pytest.mark.slow
def test_modules_that_windows_lacks_are_asked_for_where_they_may_be_missing():
    found = []
    for path, tree in trees().items():
        tried = {id(node) for each in ast.walk(tree) if isinstance(each, ast.Try) for node in ast.walk(each)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                asked = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                if windows.MODULES & {name.partition(".")[0] for name in asked} and id(node) not in tried:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("name", [r"C:\models\tiny", r"models\tiny", "C:/models/tiny", r"\\server\share\tiny"])
def test_a_path_of_windows_is_no_model_of_the_hub(name):
    with pytest.raises(ResourceError, match=r"^model\.name: folder .* does not exist; check the path"):
        locate(name)


def test_a_backslash_in_double_quotes_is_explained(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text('model: {name: "C:\\Users\\me"}\n', encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"c\.yaml:1: not valid YAML: .*; write a Windows path with / or without double"
    ):
        load_file(path)


def test_a_path_that_is_too_long_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(writing_module, "os", SimpleNamespace(name="nt", path=os.path))
    path = tmp_path / ("x" * 240)
    too_long = FileNotFoundError(errno.ENOENT, "The system cannot find the path specified", str(path))
    with (
        pytest.raises(OutputError, match=r"it has \d+ characters, and Windows takes 247 "),
        writing_module.writing(path),
    ):
        raise too_long


def test_a_file_that_is_read_just_now_is_moved_a_moment_later(tmp_path, monkeypatch):
    tried, replace = [], os.replace

    def busy_twice(*paths):
        tried.append(1)
        if len(tried) < 3:
            error = PermissionError(errno.EACCES, "in use")
            error.winerror = 5
            raise error
        replace(*paths)

    monkeypatch.setattr(moving.os, "replace", busy_twice)
    (tmp_path / "new").write_text("new", encoding="utf-8")
    moving.move(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text(encoding="utf-8") == "new" and len(tried) == 3


def test_what_goes_into_a_file_there_is_utf_8(tmp_path, monkeypatch):
    for system, found in (("posix", rb"\u0142"), ("nt", "ł".encode())):
        with (tmp_path / system).open("w", encoding="cp1252") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(cli, "os", SimpleNamespace(name=system))
            cli._escape_what_cannot_be_encoded()
            stream.write("ł")
        assert (tmp_path / system).read_bytes() == found


def test_a_reader_that_is_gone_is_an_invalid_argument_there(tmp_path, monkeypatch, capsys):
    class Gone(io.StringIO):
        def flush(self):
            raise OSError(errno.EINVAL, "Invalid argument")

        def fileno(self):
            return number

    number = os.open(tmp_path / "stdout", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(cli, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
    assert main(["--version"]) == 1
    os.write(number, b"goes nowhere")
    os.close(number)
    assert (tmp_path / "stdout").read_bytes() == b"" and capsys.readouterr().err == ""


SITE = """
import os, pathlib
import pytest
from support import windows
windows.become(pytest.MonkeyPatch(), pathlib.Path(os.environ["ON_WINDOWS"]))
"""
SWEEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
from atlas_cli.sweeps import child
child._STOP = signal.SIGBREAK
from atlas_cli.cli import main
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="cannot see which files are mapped")
def test_a_sweep_and_its_processes(write, tmp_path):
    """Ctrl-Break stops the sweep, which passes it on to the run; that one keeps its last round."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "ON_WINDOWS": str(tmp_path), "TERM": "dumb"}
    config = write(engine={"offload": "1 KiB"}, aggregation={"method": "fedex"})

    def sweep(*overrides):
        command = [sys.executable, "-c", SWEEP, str(config), *overrides]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    process = sweep("seed=0,1", "training.rounds=5000")
    when_training(tmp_path / "runs", lambda _: process.send_signal(signal.SIGUSR1))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "stopping after this step; once more stops at once\n"), out + err
    assert "interrupted" in out and "not started" in out
    (run,) = (RunDirectory(log.parent) for log in (tmp_path / "runs").glob("*/manifest.json"))
    assert run.read_json("manifest.json")["status"] == "interrupted"
    assert run.read_json("manifest.json")["adapters_of_round"] >= 1
    whole = sweep("seed=0", "training.rounds=1")
    out, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, out + err
    assert list((tmp_path / "runs").glob(f"{OFFLOAD}*")) == []
