"""``benchmarks/privacy.py`` returns the figures of a run, and compares configs that differ in ``privacy`` alone."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import privacy as benchmark

from atlas_cli.config.load import load_config

TRAINING = {"rounds": 1, "local_steps": 4, "labels": "client"}


@pytest.fixture(scope="module")
def run(trained):
    recorded, held_back = {"record": {"rounds": [1]}}, {"local_test": 0.4}
    return trained(audit=recorded, training=TRAINING, partition=held_back, privacy={"labels": {"epsilon": 2.0}})


@pytest.mark.slow
def test_figures_are_those_of_the_run_and_its_audit(run):
    found = benchmark.row(run, "labels")
    figures = {figure["attack"]: figure for figure in run.read_json("audit.json")["attacks"]}
    assert found.accuracy == run.read_lines("metrics.jsonl")[-1]["test"]["accuracy"]
    assert found.epsilon == 2.0
    assert found.recovery == max(figures[name]["value"] for name in benchmark.RECOVERY)
    assert found.labels == figures["label-from-gradients"]["value"]
    assert found.membership == figures["membership"]["value"]
    assert found.texts == figures["ridge-inverter"]["examples"]


def test_a_run_that_was_attacked_is_not_attacked_again(run, monkeypatch):
    before = benchmark.row(run, "labels")
    monkeypatch.setattr(benchmark, "audit", lambda *_: pytest.fail("attacked again"))
    assert benchmark.row(run, "labels") == before


@pytest.mark.parametrize("mechanism", [None, "updates", "nopeek", "wire"])
def test_what_bounds_nothing_has_no_epsilon(run, mechanism):
    assert benchmark.row(run, mechanism).epsilon is None


def test_configs_differ_in_privacy_alone():
    loaded = [load_config(path).config for path in sorted(benchmark.CONFIGS.glob("privacy-*.yaml"))]
    assert len(loaded) == 4
    assert len({config.model_copy(update={"name": "", "privacy": None}).model_dump_json() for config in loaded}) == 1


@pytest.mark.parametrize("case", benchmark.CASES, ids=lambda case: f"{case.mechanism} {case.strength}")
def test_every_case_is_a_config_with_that_mechanism_alone(case):
    config = load_config(benchmark.CONFIGS / f"{case.config}.yaml", case.overrides).config
    privacy = config.privacy
    on = {name for name in type(privacy).model_fields if getattr(privacy, name) not in (None, False)}
    on |= {"wire"} if config.wire.by_kind() else set()
    assert on - {"delta", "clients_per_user"} == ({case.mechanism} if case.mechanism else set())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.round=1", "did you mean rounds"),
        ("training.rounds=none", "training.rounds"),
        ("rounds", "key=value"),
    ],
)
def test_a_wrong_override_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, override, says):
    monkeypatch.setattr(sys, "argv", ["privacy.py", "--only", "none", "--output", str(tmp_path), override])
    assert benchmark.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line
