"""SIGKILL at random instants, also while a checkpoint is written: what is resumed ends as an unbroken run does."""

from __future__ import annotations

import random

import pytest
import yaml
from support import warm
from support.toy_runs import write_data

KILLS = 6


@pytest.mark.slow
def test_killed_and_resumed_runs_end_as_an_unbroken_one(chaos, tmp_path, model_folder):
    write_data(tmp_path)
    config = chaos.write_config(tmp_path, model_folder("bert"))
    whole = chaos.unbroken(config, warm.start)
    kills = 0
    for trial in range(10 * KILLS):
        draw = random.Random(f"test-{trial}")
        outcome = chaos.kill_and_resume(config, whole, chaos.length_of(whole), draw, warm.start)
        assert outcome.differences == [], f"trial {trial}: killed {outcome.kills}"
        kills += len(outcome.kills)
        if kills >= KILLS:
            return
    pytest.fail(f"only {kills} kills came in time")


@pytest.mark.slow
def test_what_a_method_keeps_survives_a_kill(chaos, tmp_path, model_folder):
    write_data(tmp_path)
    config = chaos.write_config(tmp_path, model_folder("bert"))
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump({**settings, "aggregation": {"method": "scaffold"}}), encoding="utf-8")
    whole, kills = chaos.unbroken(config, warm.start), 0
    for trial in range(20):
        draw = random.Random(f"kept-{trial}")
        outcome = chaos.kill_and_resume(config, whole, chaos.length_of(whole), draw, warm.start)
        assert outcome.differences == [], f"trial {trial}: killed {outcome.kills}"
        kills += len(outcome.kills)
        if kills >= 2:
            return
    pytest.fail(f"only {kills} kills came in time")


def test_what_is_compared_can_differ(chaos, write, train):
    path = write(training={"rounds": 1, "local_steps": 1, "max_length": 32})
    (_, one), (_, two) = train(path), train(path)
    assert chaos.differences(one, two) == []
    (one.path / "report.html").write_text("", encoding="utf-8")
    assert chaos.differences(one, two) == ["report.html differs"]
    for name in ("adapters/clients/a/adapter_model.safetensors", "checkpoints/round-000001/state.json"):
        file = two.path / name
        file.write_bytes(file.read_bytes()[:-1] + b" ")
    lines = (two.path / "clients.jsonl").read_text(encoding="utf-8")
    (two.path / "clients.jsonl").write_text(lines.replace('"steps": 1', '"steps": 2', 1), encoding="utf-8")
    (two.path / "more").write_text("", encoding="utf-8")
    assert chaos.differences(one, two) == [
        "more is in one alone",
        "adapters/clients/a/adapter_model.safetensors differs",
        "checkpoints/round-000001/state.json differs",
        "clients.jsonl differs",
        "report.html differs",
    ]
