"""``atlas audit --frontier``: runs and attacks that are there are not repeated, and failures stop nothing."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pytest
import yaml

from atlas_cli.audit import attack_all
from atlas_cli.cli import main
from atlas_cli.sweeps import trial
from atlas_cli.sweeps.child import ProcessEnd


@pytest.fixture
def trained(monkeypatch):
    """What was trained, in this process instead of one of its own; "interrupted" ends the next at once."""
    monkeypatch.setenv("COLUMNS", "250")
    calls = []

    def train(arguments, log):
        calls.append(arguments)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            code = main(["train", *arguments])
        return ProcessEnd(said.getvalue().strip().removeprefix("error: ") if code else None, "stop" in calls)

    monkeypatch.setattr(trial, "train", train)
    return calls


@pytest.fixture
def frontier(config_file, tmp_path, capsys):
    """``frontier(*arguments, noise=...)``: exit code, standard output and error of one defence at one seed."""
    config_file(training={"rounds": 1, "local_steps": 2})

    def call(*arguments, changes=None):
        file = {
            "config": "config.yaml",
            "seeds": [0],
            "attacks": ["nearest-embedding"],
            "examples": 20,
            "defences": {"noise": {"much": changes or {"privacy.activations": {"clip": 1.0, "noise_multiplier": 2}}}},
        }
        (tmp_path / "frontier.yaml").write_text(yaml.safe_dump(file, sort_keys=False), encoding="utf-8")
        return main(["audit", "--frontier", str(tmp_path / "frontier.yaml"), *arguments]), *capsys.readouterr()

    return call


@pytest.mark.slow
def test_a_point_a_setting_and_nothing_done_twice(frontier, trained, tmp_path, monkeypatch):
    code, out, err = frontier("--json")
    assert code == 0, err
    found = json.loads(out)
    plain, noisy = found["points"]
    assert (plain["defence"], noisy["defence"], noisy["strength"]) == ("", "noise", "much")
    assert plain["upper"] > noisy["upper"] and plain["epsilon"] == {} and noisy["epsilon"]["activations"] > 0
    for point in found["points"]:
        lines = (tmp_path / "runs" / point["runs"][0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert point["sent"] == sum(row["bytes_up"] + row["bytes_down"] for row in map(json.loads, lines))
        audited = json.loads((tmp_path / "runs" / point["runs"][0] / "audit.json").read_text(encoding="utf-8"))
        (figure,) = audited["attacks"]
        assert (point["found"], point["upper"]) == (figure["value"], figure["advantage"])
        assert audited["texts"] == 20 and 1 in audited["recorded"]["rounds"]
    (folder,) = tmp_path.glob("runs/*_toy_frontier")
    assert json.loads((folder / "frontier.json").read_text(encoding="utf-8")) == found
    assert {path.name for path in folder.glob("*.svg")} == {"frontier-g-dark.svg", "frontier-g-light.svg"}

    trained.clear()
    monkeypatch.setattr(attack_all, "audit", None)  # attacking again would fail
    code, out, _ = frontier()
    assert code == 0 and not trained
    assert "1/2 no defence, seed 0: was there, attacked" in out and "% still found" in out


@pytest.mark.slow
def test_a_failure_leaves_the_others(frontier, trained):
    code, out, _ = frontier(changes={"training.client_optimizer.lr": 1e30})
    assert code == 1 and "noise, much, seed 0: failed: " in out and "Privacy against use" in out


@pytest.mark.slow
def test_an_interrupted_one_shows_what_is_there(frontier, trained):
    trained.append("stop")
    code, out, _ = frontier()
    assert code == 130 and "interrupted; the same command goes on" in out


@pytest.mark.parametrize("option", [["--by-layer"], ["--attack", "lira"], ["--lira", "4"], ["--without", "a"]])
def test_options_of_other_audits_are_refused(frontier, trained, option):
    code, _, err = frontier(*option)
    assert code == 2 and f"{option[0]}: give it without --frontier" in err and not trained
