"""What a comparison of ``benchmarks/speed.py`` takes of memory is given back before the next begins."""

from __future__ import annotations

import gc
import platform
import sys
import weakref
from collections import defaultdict
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from contestants import comparisons, where
from contestants.experiment import Arena
from contestants.freed_memory import give_back_freed_memory

WORDS = "the a film movie was very good bad great poor".split()


class Once(comparisons.Options):
    """One timed step of each contestant."""

    turns = 1


@pytest.fixture
def options(tmp_path, model_folder, monkeypatch):
    """Of comparisons of small models on made-up texts."""
    rows = [f"{' '.join(WORDS[int(digit)] for digit in str(i))},{'ab'[i % 2]}" for i in range(1600)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    models = {model: {"name": model_folder("gpt2"), "split_layer": 2} for model in ("gpt2", "minilm")}
    monkeypatch.setattr(comparisons, "MODELS", models)
    monkeypatch.setattr(comparisons, "PADDED", 32)
    monkeypatch.setattr(comparisons, "CORPUS", {"files": str(tmp_path / "rows.csv")})
    return Once(True, ["lora.rank=2", "server.rank=2", "training.max_length=32"], None)


@pytest.fixture
def made(monkeypatch):
    """Models of the arenas made so far; where one is alive when the next arena is made, the test fails."""
    models = []

    class Watched(Arena):
        def __init__(self, *parts):
            assert not any(model() for model in models)
            super().__init__(*parts)
            models.extend(weakref.ref(model) for model in (self.federation.base.model, self.stock.model))

    monkeypatch.setattr(comparisons, "Arena", Watched)
    gc.disable()  # or it would be chance whether Python has looked for cycles
    yield models
    gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trainer", "split", "products"])
def test_a_comparison_begins_when_the_models_of_the_one_before_are_gone(options, made, name):
    results = list(comparisons.COMPARISONS[name](options))
    assert len(results) >= 4 and len(made) == 4


@pytest.mark.slow
def test_each_comparison_begins_when_those_of_other_kinds_are_gone(options, made):
    for name in ("rounds", "split", "rounds"):
        for result in comparisons.COMPARISONS[name](options):
            assert result.figure["n"] == 1
    assert len(made) == 8


@pytest.mark.slow
def test_a_profile_begins_when_the_models_of_the_one_before_are_gone(options, made, monkeypatch):
    def one_step(loop, _turns, _thin):
        with pytest.raises(EnoughError):
            loop(enough)
        return defaultdict(float)

    monkeypatch.setattr(where, "shares", one_step)  # the profiler takes long, and holds nothing
    where.profile(options)
    assert len(made) == 12


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only of glibc is what it keeps asked back")
def test_memory_that_is_freed_in_pieces_is_given_back():
    tensors = [torch.ones(16_384) for _ in range(2_000)]  # 64 KiB each, too small to be given back one by one
    kept = tensors[::20]
    del tensors
    before = resident()
    give_back_freed_memory()
    assert before - resident() > 80 * 2**20
    assert len(kept) == 100


class EnoughError(Exception):
    pass


def enough(_work):
    raise EnoughError


def resident():
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
