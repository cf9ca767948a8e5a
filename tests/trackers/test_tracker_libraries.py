"""The libraries themselves, where they are installed: what is told is read back, a resumed run goes on."""

import json
import sqlite3
import warnings

import pytest

from atlas_cli.extras import install_command
from atlas_cli.trackers.of_a_run import Trackers, load_trackers, tracked_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of others' code
CONFIG = {"seed": 3, "lora": {"rank": 8}}


def needs(module, extra):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imports of others
        return pytest.importorskip(module, reason=f"{module} is missing ({install_command(extra)})")


@pytest.fixture
def two_parts(tmp_path, monkeypatch):
    """A run that is told of rounds 0 to 2, was killed, and goes on after round 1."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)

    def call(name):
        folder, lines = tmp_path / "runs" / "a_run", []
        folder.mkdir(parents=True)
        for done, rounds in ((None, (0, 1, 2)), (1, (2, 3))):
            trackers = Trackers(load_trackers([name]), lines.append)
            trackers.start(tracked_run(folder, "example", CONFIG, done), [])
            for number in rounds:
                for each in trackers.running:
                    figures = {"g/test/f1": number / 10 + (0.5 if done is None and number == 2 else 0)}
                    each.call("log", lambda n=number, f=figures, t=each.tracker: t.log(n, f)).wait(60)
            trackers.finish("finished" if done else "failed", None, 1.5)
        assert lines == []
        return folder

    return call


def test_tensorboard_reads_every_round_once(two_parts):
    needs("tensorboard", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(two_parts("tensorboard") / "tensorboard"))
    read.Reload()
    found = [(event.step, round(event.value, 3)) for event in read.Scalars("g/test/f1")]
    assert found == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
    config = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(config) == CONFIG


def test_mlflow_has_one_run_with_all_rounds(two_parts):
    needs("mlflow", "mlflow")
    needs("sqlalchemy", "mlflow")
    folder = two_parts("mlflow")
    rows = sqlite3.connect(folder.parent / "mlflow.db")
    assert rows.execute("select status from runs").fetchall() == [("FINISHED",)]
    steps = [step for (step,) in rows.execute("select step from metrics where key = 'g/test/f1' order by timestamp")]
    assert sorted(steps) == [0, 1, 2, 2, 3]
    assert dict(rows.execute("select key, value from params")) == {"seed": "3", "lora.rank": "8"}
    rows.close()


def test_wandb_writes_offline_and_keeps_no_key(two_parts, monkeypatch):
    needs("wandb", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    folder = two_parts("wandb")
    found = list((folder / "wandb").glob("offline-run-*-a_run/run-a_run.wandb"))
    assert found and b"g/test/f1" in found[0].read_bytes()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(b"0123456789abcdef0123456789abcdef" in path.read_bytes() for path in files)


def test_trackio_goes_on_under_the_same_name(two_parts, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    needs("trackio", "trackio")
    two_parts("trackio")
    rows = sqlite3.connect(tmp_path / "trackio" / "example.db")
    found = rows.execute("select run_name, step, metrics from metrics order by id").fetchall()
    steps = [step for name, step, metrics in found if name == "a_run" and "g/test/f1" in json.loads(metrics)]
    assert steps == [0, 1, 2, 2, 3]
    rows.close()
