"""``benchmarks/accelerator.py`` on a CPU: every part runs, and what fails or is missing is said and counts."""

import json
import sys

import accelerator
import pytest
import torch
from contestants import on_a_gpu
from contestants.places import SIZES, Place
from support.tape import Tape

from atlas_cli.federation import build as building
from atlas_cli.models.cuda_graphs import graphed_passes
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses

TINY = ("--size", "tiny", "--device", "cpu", "--seconds", "0.01")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """``run(*arguments)``: the exit code, the parts by dtype and name, and what was said."""

    def call(*arguments):
        found = tmp_path / "found.json"
        monkeypatch.setattr(sys, "argv", ["accelerator.py", *TINY, "--json", str(found), *arguments])
        code = accelerator.main()
        parts = json.loads(found.read_text(encoding="utf-8"))["parts"] if found.exists() else []
        return code, {(part["dtype"], part["name"]): part for part in parts}, capsys.readouterr()

    return call


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(run, monkeypatch):
    for steps in ("WARM_UP", "LEAST"):
        monkeypatch.setattr(on_a_gpu, steps, 1)
    code, parts, said = run()
    assert code == 0, said.err
    skipped = {name for (_, name), part in parts.items() if part["status"] == "skipped"}
    assert skipped <= {"atlas, engine.compile", "atlas, engine.cuda_graphs", "atlas, nf4", "atlas, int8"}
    assert parts["float32", "atlas, beside the CPU"]["note"] == "losses differ by 0.0e+00, adapters differ by 0.0e+00"
    for dtype in ("float32", "bfloat16"):
        product = parts[dtype, "one large matrix product"]["tflops"]
        for name in ("atlas", "atlas, one client after another", "PEFT + Trainer, unsplit", "naive split"):
            part = parts[dtype, name]
            assert part["tokens_per_second"] > 0 and part["peak_mib"] is None
            assert part["share"] == pytest.approx(part["tflops"] / product)
    width, hidden, kv, blocks = 32, 48, 16, 4
    forward = blocks * (2 * width**2 + 2 * width * kv + 3 * width * hidden)
    back = forward - width * (width + kv)  # q and v of the lowest block are adapted: nothing below is trained
    part = parts["float32", "atlas"]
    assert part["tflops"] / part["tokens_per_second"] == pytest.approx(2 * (forward + back) / 1e12)
    table = [line for line in said.out.splitlines() if line.startswith("| tiny")]
    assert len(table) == len(parts) == 22


@pytest.mark.slow
def test_passes_that_are_replayed(run, monkeypatch):
    """On a tape instead of a GPU; that one of them could not be fails the part."""
    monkeypatch.setattr(building, "graphed_passes", lambda _: GraphedPasses(Tape()))
    code, parts, said = run("--only", "cuda_graphs")
    assert code == 0, said.err
    assert {part["status"] for part in parts.values()} == {"ok"}
    assert all(part["note"].endswith(" graphs") and part["tokens_per_second"] > 0 for part in parts.values())
    monkeypatch.setattr(graphed_passes, "MOST", 0)
    code, _, said = run("--only", "cuda_graphs")
    assert code == 1 and "not all was replayed: there are 0 graphs" in said.err


def test_a_part_that_fails_says_why_and_the_others_run(run, monkeypatch):
    def broken(bench, dtype):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(on_a_gpu.Bench, "naive", broken)
    code, parts, said = run("--only", "naive", "product")
    assert code == 1
    assert "failed: tiny, float32, naive split: RuntimeError: out of luck" in said.err
    assert [part["status"] for part in parts.values()] == ["ok", "ok", "failed", "failed"]


def test_without_time_no_part_begins(run):
    code, parts, said = run("--limit", "0", "--only", "naive")
    assert code == 1 and "no time" in said.err
    assert {part["status"] for part in parts.values()} == {"no time"}


def test_a_device_that_trains_otherwise_fails(tmp_path, monkeypatch):
    bench = on_a_gpu.Bench(SIZES["tiny"], Place(torch.device("cpu"), 0.01), tmp_path)
    moved = torch.ones(4)
    for factor, differs in ((1 + 1e-5, False), (1.01, True)):
        found = iter([([1.0], {("a", "B"): moved}), ([1.0], {("a", "B"): moved * factor})])
        monkeypatch.setattr(on_a_gpu, "build", lambda config: None)
        monkeypatch.setattr(on_a_gpu, "trained", lambda federation, found=found: next(found))
        if differs:
            with pytest.raises(AssertionError, match=r"adapters differ by 1\.0e-02"):
                bench.beside_the_cpu()
        else:
            assert bench.beside_the_cpu() == {"note": "losses differ by 0.0e+00, adapters differ by 1.0e-05"}


def test_missing_packages_and_a_missing_gpu_are_named(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, said = run("--device", "cuda")
    assert code == 2 and "torch sees no GPU here; --device cpu" in said.err
    monkeypatch.setattr(accelerator, "find_spec", lambda module: None if module in ("yaml", "pydantic") else module)
    code, _, said = run()
    assert code == 2 and said.err.startswith("needs pydantic, pyyaml: pip install pydantic pyyaml (without a network")
