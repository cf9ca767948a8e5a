"""Experiments from Python: ``run`` is ``atlas train``, a ``Result`` has what a run directory has."""

import math

import pandas
import pytest
from support.toy_runs import toy_config, write_data

from atlas_cli import load_run, run
from atlas_cli.errors import ConfigError, OutputError, ResourceError


@pytest.fixture(scope="module")
def config(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    write_data(folder)
    return toy_config(model_folder, folder, folder / "runs")


def last(result):
    """The test figures of the last round by their own names."""
    return {name[5:]: value for name, value in result.metrics[-1].items() if name.startswith("test_")}


@pytest.fixture
def runs(config, tmp_path):
    """Overrides that put runs into a folder of the test's own."""
    return {"output.dir": str(tmp_path / "runs")}


def test_a_run_prints_nothing_and_gives_records_that_pandas_takes(config, runs, tmp_path, capfd):
    seen = []
    result = run(config, {**runs, "training.rounds": 2}, on_round=seen.append)
    assert capfd.readouterr() == ("", "")
    assert (result.status, result.path.parent) == ("finished", tmp_path / "runs")
    assert "round 2/2" in (result.path / "log.txt").read_text(encoding="utf-8")
    table = pandas.DataFrame(result.metrics)
    assert [records[0]["round"] for records in seen] == table["round"].tolist() == [0, 1, 2]
    assert [records[0]["test_accuracy"] for records in seen] == table["test_accuracy"].tolist()
    assert table["epsilon_updates"].tolist() == [0, math.inf, math.inf]
    assert not table.map(lambda value: isinstance(value, dict | list)).any(axis=None)
    assert set(pandas.DataFrame(result.clients)["client"]) == {"a", "b-1", "b-2"}
    best = result.best["g"]
    assert (best.metric, best.chosen_on, best.test) == ("accuracy", "test", table["test_accuracy"].max())
    assert (result.report.is_file(), result.adapters.is_dir()) == (True, True)
    assert result.records("messages.jsonl")[0]["kind"]
    assert load_run(result.path) == result and result.config.training.rounds == 2
    scores = result.evaluate()
    assert scores.outcomes.figures == pytest.approx(last(result), rel=1e-5)
    said = result.predict(["the film was great", "a poor game"])
    assert [each["text"] for each in said] == ["the film was great", "a poor game"] and result.predict([]) == []
    assert all(each["label"] in ("pos", "neg") for each in said)
    alone = result.predict([{"text": "the film was great", "number": 7}])[0]  # in a batch of its own
    scores = pytest.approx(said[0]["scores"], rel=1e-6)
    assert alone == {**said[0], "number": 7, "scores": scores, "score": pytest.approx(said[0]["score"], rel=1e-6)}
    with pytest.raises(ConfigError, match=r"rows\[1\]"):
        result.predict(["the film", ""])
    model = result.open_model(client="b-1", round=1)
    assert (model.owner.name, model.round) == ("b-1", 1)


@pytest.mark.slow
def test_an_interrupt_leaves_a_run_that_goes_on_as_if_there_had_been_none(config, runs, tmp_path):
    def interrupt(records):
        if records[0]["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"interrupted; round 1 is kept; to go on: atlas train --resume"):
        run(config, runs, on_round=interrupt)
    (folder,) = (tmp_path / "runs").iterdir()
    stopped = load_run(folder)
    assert (stopped.status, [each["round"] for each in stopped.metrics]) == ("interrupted", [0, 1])
    resumed = stopped.resume()
    whole = run(config, {**runs, "name": "whole"})
    assert resumed == stopped and stopped.status == "finished"
    figures = [[each["test_loss"] for each in result.metrics] for result in (resumed, whole)]
    assert figures[0] == figures[1] and len(figures[0]) == 3


def test_errors_are_exceptions(config, runs, tmp_path, capfd):
    with pytest.raises(ConfigError, match="rouds is not a known key; did you mean rounds"):
        run(config, {**runs, "training.rouds": 3})
    with pytest.raises(ConfigError, match="task_group"):
        run({**config, "clients": {"a": {"task_group": "h", "rank": 2}}}, runs)
    with pytest.raises(ResourceError, match="no such run directory"):
        load_run(tmp_path / "none")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="is a file"):
        run(config, {"output.dir": str(tmp_path / "file")})
    assert not (tmp_path / "runs").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_what_a_run_shows_when_asked(config, runs, capfd):
    run(config, [f"output.dir={runs['output.dir']}", "training.rounds=1"], show=True)
    assert "round 1/1" in capfd.readouterr().out
