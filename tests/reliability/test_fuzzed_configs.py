"""Configs that are wrong in every way are errors in words (``benchmarks/fuzz_configs.py`` has the rules)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import fuzz_configs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toy_runs import write_data

from atlas_cli.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folder):
    """A folder with small files, and the shipped configs on them."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_data(folder)
    models = {family: model_folder(family) for family in ("bert", "gpt2")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("ATLAS_CACHE", str(folder / "cache"))
        yield folder, fuzz_configs.shipped(folder, models)


@pytest.mark.slow
def test_the_shipped_configs_are_valid_before_they_are_harmed(place):
    folder, bases = place
    assert len(bases) >= 8
    for base in bases:
        assert fuzz_configs.check(fuzz_configs.dump(base), folder) == ("exit 0", "")


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_harmed_configs(place, draw):
    folder, bases = place
    assert fuzz_configs.check(fuzz_configs.case(draw, bases), folder)[1] == ""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_the_first_cases_of_the_benchmark(place, seed):
    folder, bases = place
    for i in range(20):
        content = fuzz_configs.case(random.Random(f"0-{seed * 20 + i}"), bases)
        assert fuzz_configs.check(content, folder)[1] == "", content.decode("utf-8", "replace")


@pytest.mark.parametrize("name", ["x" * 500, "~nobody-has-this-name/x"])
@pytest.mark.parametrize("key", ["model.name", "model.tokenizer", "output.dir", "task_groups.X.data.files", "adapter"])
def test_names_that_no_file_can_have(place, capsys, key, name):
    folder, bases = place
    path = folder / "named.yaml"
    path.write_bytes(fuzz_configs.dump(bases[0]))
    group = f"task_groups.{next(iter(bases[0]['task_groups']))}"
    key = {"adapter": f"{group}.adapter"}.get(key, key.replace("task_groups.X", group))
    for arguments in ([], ["--resume", "auto"]):
        assert main(["train", str(path), f"{key}={name}", "training.rounds=1", *arguments]) in (1, 2, 3)
        (line,) = capsys.readouterr().err.splitlines()
        assert "unexpected" not in line and (name[:100] in line or "auto" in line)
    assert not (folder / "runs").exists()


def test_the_check_can_fail(place, monkeypatch):
    folder, bases = place
    good = fuzz_configs.dump(bases[0])

    def answers(code, text, **files):
        def fake(_):
            print(text, file=sys.stderr)
            for name in files:
                (folder / name).write_text("x", encoding="utf-8")
            return code

        monkeypatch.setattr(fuzz_configs, "atlas", fake)
        return fuzz_configs.check(good, folder)[1]

    assert "exit code 1" in answers(1, "error: unexpected KeyError: 'x'")
    assert "names no place" in answers(2, "error: something is wrong")
    assert "wrote" in answers(2, "error: lora.rank: is wrong", left="")
    assert answers(2, "error: lora.rank: is wrong") == ""
