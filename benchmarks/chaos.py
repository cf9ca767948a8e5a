"""Kill training runs at random instants, resume them, and compare the result with an unbroken run.

    python benchmarks/chaos.py               10 kills, about 3 minutes on 2 cores
    python benchmarks/chaos.py --kills 50    about 15 minutes

Every run is a process of its own that is killed: half of them at a moment drawn from the length of an unbroken run,
half while a checkpoint is being written. A resumed run may be killed again. What must be equal in the end: every
record but its timings, adapters, the last checkpoint, memory, config, and the names of all files. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from atlas_cli.reports.page.report import page
from atlas_cli.runs.checkpoint import folders
from atlas_cli.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 8
TIMINGS = {"seconds", "samples_per_second", "process_rss_peak", "started", "ended", "duration_s"}
OF_FILES = {"records", "sha256"}  # hashes of files with seconds in them
SUMS = {"crc32"}  # of lines with seconds in them; the lines are compared themselves
OF_THE_PROCESS = {"parts", "engine", "git"}  # the checkout may be edited meanwhile
ATLAS = [sys.executable, "-c", "import sys; from atlas_cli.cli import main; sys.exit(main())"]

Start = Callable[[Sequence[str]], "subprocess.Popen[str]"]


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """``atlas ARGUMENTS`` in a new process."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*ATLAS, *arguments], **pipes, text=True, env=_environment())


@dataclass
class Outcome:
    """Where each kill fell, and how the resumed run differs from the unbroken one."""

    kills: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def main() -> None:
    """Print the table; exit code 1 when a resumed run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from support.tiny_models import tiny_model, word_tokenizer
    from support.toy_runs import write_data

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny_model("bert").save_pretrained(folder / "model")
        word_tokenizer(False).save_pretrained(folder / "model")
        write_data(folder)
        config = write_config(folder, str(folder / "model"))
        whole = unbroken(config)
        length, kills, wrong, trial = length_of(whole), Counter[str](), 0, 0
        print(f"an unbroken run of {ROUNDS} rounds takes {length:.1f} s after its start")
        while kills.total() < asked.kills:
            outcome = kill_and_resume(config, whole, length, random.Random(f"{asked.seed}-{trial}"))
            kills.update(outcome.kills)
            wrong += bool(outcome.differences)
            trial += 1
            what = ", ".join(f"killed {kill}" for kill in outcome.kills) or "the kill came too late"
            print(f"{trial}: {what}: {outcome.differences or 'equal'}", flush=True)
    print(f"\n{'killed':34} kills")
    for phase, count in sorted(kills.items()):
        print(f"{phase:34} {count:5}")
    print(f"\n{kills.total()} kills in {trial} runs; {trial - wrong} end as the unbroken run does, {wrong} do not")
    sys.exit(bool(wrong))


def write_config(folder: Path, model: str) -> Path:
    """An experiment with state of every kind: momentum, partial cohorts, a server that trains, two ranks."""
    config = {
        "name": "chaos",
        "device": "cpu",
        "threads": 1,
        "model": {"name": model, "split_layer": 2},
        "lora": {"dropout": 0.1},
        "server": {"rank": 2},
        "task_groups": {"g": {"task": "sequence-classification", "data": {"files": str(folder / "tone.csv")}}},
        "clients": {"a": {"task_group": "g", "rank": 4}, "b": {"task_group": "g", "rank": 2, "count": 2}},
        "training": {"rounds": ROUNDS, "local_steps": 6, "batch_size": 4, "max_length": 32, "cohort": 0.5},
        "checkpoints": {"every": 2},
        "output": {"dir": str(folder / "runs")},
    }
    path = folder / "chaos.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def unbroken(config: Path, start: Start = started) -> RunDirectory:
    """A run that nobody kills."""
    before = runs_of(config)
    process = start(["train", str(config)])
    error = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {error.strip()[-300:]}")
    (made,) = runs_of(config) - before
    return RunDirectory(made)


def length_of(run: RunDirectory) -> float:
    """Seconds from the lock to the end, with the report, about."""
    return float(run.read_json("manifest.json")["duration_s"]) + 1.0


def kill_and_resume(
    config: Path, whole: RunDirectory, length: float, draw: random.Random, start: Start = started
) -> Outcome:
    """One run that is killed up to three times.

    Args:
        length: of an unbroken run from the lock to the end, seconds.
        start: begins a process of ``atlas``.
    """
    outcome, before, run = Outcome(), runs_of(config), None
    for kills_left in reversed(range(draw.randint(1, 3) + 1)):
        known = runs_of(config)
        resumed = run is not None and bool(folders(run))
        arguments = ["--resume", str(run.path)] if run is not None and resumed else [str(config)]
        process = start(["train", *arguments])
        if kills_left:
            _kill(process, config, draw, length)
        error = process.communicate(timeout=600)[1]
        made = runs_of(config) - known
        run = RunDirectory(made.pop()) if made else run
        if process.returncode == 0 or (run is not None and _finished(run)):
            break
        if process.returncode > 0:
            outcome.differences.append(f"exit {process.returncode}: {error.strip()[-300:]}")
            return outcome
        outcome.kills.append(_phase(run, process.pid))
    assert run is not None
    outcome.differences += differences(run, whole)
    assert runs_of(config) > before
    return outcome


def runs_of(config: Path) -> set[Path]:
    """Run directories of a config."""
    return set(Path(yaml.safe_load(config.read_text(encoding="utf-8"))["output"]["dir"]).glob("*"))


def differences(run: RunDirectory, whole: RunDirectory) -> list[str]:
    """In words, what of a resumed run is not as in an unbroken one; timings do not count.

    Its report.html must be what its own records give.
    """
    found = [f"{name} is in one alone" for name in sorted(_names(run) ^ _names(whole))]
    for name in sorted(_names(run) & _names(whole)):
        if name == "log.txt":
            continue  # it says what happened, and that differs
        if name == "report.html":
            same = (run.path / name).read_text(encoding="utf-8") == page(run)
        elif name == "sums.jsonl":
            same = _untimed(run, name, SUMS) == _untimed(whole, name, SUMS)
        elif name.endswith((".jsonl", "memory.json")) or name == "manifest.json":
            same = _untimed(run, name, OF_FILES) == _untimed(whole, name, OF_FILES)
        elif name.startswith("checkpoints/") and name.endswith(("/records.json", "/manifest.json")):
            same = _names_in(run.path / name) == _names_in(whole.path / name)  # hashes of records, and of these
        else:
            same = (run.path / name).read_bytes() == (whole.path / name).read_bytes()
        if not same:
            found.append(f"{name} differs")
    return found


def _kill(process: subprocess.Popen[str], config: Path, draw: random.Random, length: float) -> None:
    """A kill at a moment of the run, or as soon as a checkpoint is begun; a run that ends before is left alone."""
    base = Path(yaml.safe_load(config.read_text(encoding="utf-8"))["output"]["dir"])
    kind, wait = draw.choice(["start", *["run"] * 4, *["checkpoint"] * 5]), draw.random() * length
    nth, extra = draw.randint(1, 3), draw.uniform(0, 0.01)
    seen: set[tuple[Path, int]] = set()
    while kind == "run" and process.poll() is None and not _owned(base, process.pid):
        time.sleep(0.01)
    began = time.monotonic()
    while process.poll() is None:
        if kind == "checkpoint":
            for path in base.glob("*/checkpoints/.round-*.tmp"):
                try:
                    seen.add((path, path.stat().st_ino))
                except FileNotFoundError:
                    continue
            if len(seen) >= nth:
                time.sleep(extra)
                break
        elif time.monotonic() - began > wait:
            break
        time.sleep(0.001)
    process.kill()


def _finished(run: RunDirectory) -> bool:
    manifest = run.path / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text(encoding="utf-8"))["status"] == "finished"


def _owned(base: Path, pid: int) -> bool:
    """Whether a process has the lock of a run directory."""
    for lock in base.glob("*/lock.json"):
        try:
            if json.loads(lock.read_text(encoding="utf-8"))["pid"] == pid:
                return True
        except FileNotFoundError:  # released meanwhile
            continue
    return False


def _phase(run: RunDirectory | None, pid: int) -> str:
    """What a killed run was doing, by what it left."""
    if run is None:
        return "before the run directory"
    lock = run.path / "lock.json"
    if lock.exists() and json.loads(lock.read_text(encoding="utf-8"))["pid"] != pid:
        return "before a resumed run began"
    if any(run.path.glob("checkpoints/.round-*.tmp")):
        return "while writing a checkpoint"
    if not folders(run):
        return "before the first checkpoint"
    if folders(run)[-1].name != f"round-{ROUNDS:06d}":
        return "in a round"
    return "while exporting or reporting"


def _names(run: RunDirectory) -> set[str]:
    earlier = folders(run)[:-1]  # an interrupt writes one that was not due
    files = (path for path in run.path.rglob("*") if path.is_file() and not set(path.parents) & set(earlier))
    # a kill between the last write and the end leaves the lock of a process that is gone
    return {str(path.relative_to(run.path)) for path in files} - {"lock.json"}


def _names_in(path: Path) -> list[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return sorted(content.get("files", content))


def _untimed(run: RunDirectory, name: str, further: set[str]) -> list[dict[str, object]]:
    text = (run.path / name).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else [json.loads(text)]
    return [{k: v for k, v in record.items() if k not in TIMINGS | OF_THE_PROCESS | further} for record in records]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    main()
