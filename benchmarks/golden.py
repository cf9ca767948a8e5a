"""Golden runs: proof that a change of the code changed no number.

    python benchmarks/golden.py record OUT.json [--only PATTERN] [--ray]
    python benchmarks/golden.py compare REFERENCE.json [--only PATTERN] [--ray]

``record`` runs the command lines of ``golden_runs.py`` in one process, on tiny models in a temporary folder, and keeps
what they computed: the sha256 of every tensor of every adapter and recorded message, the contents of the last
checkpoint, every record of the run directory, and what was printed, without times, versions and paths. ``compare`` runs
them again and names each run, file, record and field that differs, with exit code 1. Names of tensors in a checkpoint
may change with its format: they are a note; contents may not. PATTERN is looked for in the names of runs (``method/``).

Record before a refactoring, with the package as it stands (PYTHONPATH says which package is run), and compare after
each step. Equal means equal to the last bit, so record and compare on one machine. ``--ray`` runs instead what takes
long to start: runs on Ray, and compiled ones.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import operator
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(COLUMNS="160", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import torch
from golden_inputs import write_inputs
from golden_runs import commands
from safetensors.torch import load_file

from atlas_cli.cli import main as atlas

# of one execution, and so never the same twice; hashes of whole files, which hold such things
VOLATILE = {"seconds", "samples_per_second", "started", "ended", "duration_s", "process_rss_peak", "pid", "command"}
VOLATILE |= {"git", "versions", "platform", "host", "config_sha256", "experiment_sha256", "code"}
NAMES = "names of tensors in the checkpoint"
SHOWN = 20  # differences of a run; the rest are counted
SEALED, SEALS = {"manifest.json", "audit.json"}, {"sha256", "records"}  # of the file itself and of files beside it
ROUNDED = {"update_norms"}  # sums in the order of a hash table
BY_CLIENT = operator.itemgetter("round", "client", "number")
LEFT_OUT = {"sums.jsonl", "log.txt", "report.html", ".lock", "lock.json", "SHA256SUMS", "README.md"}
TIMES = [
    (re.compile(r"\d{8}-\d{6}(-\d+)?"), "TIME"),
    (re.compile(r"[\d,.]+ samples/s"), "- samples/s"),
    (re.compile(r"(finished after) [\d,.]+ \w+"), r"\1 -"),
    (re.compile(r"(peak of the whole process.*?): .*"), r"\1"),
    (re.compile(r"─+"), "─"),
    (re.compile(r"  +"), "  "),
]


class Printed(io.StringIO):
    """Standard output that interrupts this process as soon as a round is said to be done."""

    stop_after: str | None = None

    def write(self, text: str) -> int:
        """Keep the text."""
        if self.stop_after is not None and f"round {self.stop_after}/" in text:
            self.stop_after = None
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def record(only: str, ray: bool) -> dict[str, Any]:
    """What every run whose name has ``only`` in it computed."""
    torch.set_num_threads(1)
    begun, here = time.time(), Path.cwd()
    found = {}
    with tempfile.TemporaryDirectory(prefix="golden-") as root:
        os.chdir(root)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                write_inputs()
            for name, lines in commands(ray).items():
                if only in name:
                    print(f"{time.time() - begun:6.1f} s  {name}", file=sys.stderr, flush=True)
                    found[name] = _run(name, lines, os.path.realpath(root))
        finally:
            os.chdir(here)
    return found


def _run(name: str, lines: list[str], root: str) -> dict[str, Any]:
    """Run the command lines; what they printed, and the files that they left."""
    folder = Path("runs", name.replace("/", "_"))
    folder.mkdir(parents=True)
    found: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        newest = str(max(folder.glob("[0-9]*"), default=folder))
        words = shlex.split(line.replace("RUN", newest).replace("OUT", str(folder / "out")))
        stop_after = words[1] if words[0] == "stop" else None
        words = words[2:] if stop_after else words
        if words[0] in ("train", "sweep") and "--resume" not in words:
            words.append(f"output.dir={folder}")
        code, printed, errors = _call(words, stop_after)
        shown = f"{number} {line}"
        found[shown] = {"exit": code, "printed": _said(printed, root), "errors": _said(errors, root)}
    for i, run in enumerate(sorted(path for path in folder.iterdir() if path.is_dir()), 1):
        found.update({f"{i}/{file}": _clean(content, root) for file, content in _files(run)})
    return found


def _call(words: list[str], stop_after: str | None) -> tuple[int, str, str]:
    printed, errors = Printed(), io.StringIO()
    printed.stop_after = stop_after
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        code = atlas(words)
    return code, printed.getvalue(), "".join(x for x in errors.getvalue().splitlines(True) if x.startswith("error"))


def _said(text: str, root: str) -> Any:
    """JSON as what it says, else lines, without times."""
    with contextlib.suppress(ValueError):
        return _clean(json.loads(text), root)
    lines, in_result = [], False
    for line in text.splitlines():
        in_result = line.startswith("Result") or (in_result and not line.startswith("metric:"))
        if in_result:  # its last column is the time
            line = re.sub(r"\s[\d,.<]+\s*$", "", line)
        lines.append(_without_times(line.rstrip(), root))
    return lines


def _without_times(text: str, root: str) -> str:
    text = text.replace(root, "ROOT")
    for pattern, instead in TIMES:
        text = pattern.sub(instead, text)
    return text


def _clean(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        kept = {k: _rounded(v) if k in ROUNDED else v for k, v in value.items() if k not in VOLATILE}
        return {_without_times(str(k), root): _clean(v, root) for k, v in kept.items()}
    if isinstance(value, list):
        return [_clean(item, root) for item in value]
    return _without_times(value, root) if isinstance(value, str) else value


def _rounded(value: Any) -> Any:
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.12g}"))


def _files(run: Path) -> Iterator[tuple[str, Any]]:
    """The name and content of every file that says what was computed."""
    checkpoints = sorted(run.glob("checkpoints/round-*"))
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.name not in LEFT_OUT):
        name = path.relative_to(run).as_posix()
        if name.startswith("checkpoints/"):
            continue
        if path.suffix == ".safetensors":
            yield name, _hashes(path)
        elif path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            # clients of Ray send when they are ready
            yield name, sorted(records, key=BY_CLIENT) if path.name == "index.jsonl" else records
        elif path.suffix == ".json":
            said = json.loads(path.read_text(encoding="utf-8"))
            yield name, {k: v for k, v in said.items() if k not in SEALS} if path.name in SEALED else said
        elif path.suffix not in (".png", ".svg"):
            yield name, path.read_text(encoding="utf-8").splitlines()
    if checkpoints:
        tensors = [item for path in sorted(checkpoints[-1].glob("*.safetensors")) for item in _hashes(path).items()]
        yield "checkpoint", {"round": checkpoints[-1].name, "contents": sorted(h for _, h in tensors)}
        yield NAMES, sorted(name for name, _ in tensors)


def _hashes(path: Path) -> dict[str, str]:
    return {name: _hash(tensor) for name, tensor in sorted(load_file(path).items())}


def _hash(tensor: torch.Tensor) -> str:
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode() + content).hexdigest()


def differences(reference: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """A line for each field that differs, and each run, file or record that only one side has."""
    lines = []
    for run in sorted(reference.keys() | found.keys()):
        if run not in found or run not in reference:
            lines.append(f"{run}: only in {'the reference' if run in reference else 'this recording'}")
            continue
        its = [f"{run}: {line}" for line in _between(reference[run], found[run])]
        lines += its[:SHOWN] + [f"{run}: and {len(its) - SHOWN} more fields"] * (len(its) > SHOWN)
    return lines


def _between(before: Any, after: Any, where: str = "") -> Iterator[str]:
    if where.endswith((NAMES, "checkpoint contents")):  # in no order
        gone, come = Counter(before) - Counter(after), Counter(after) - Counter(before)
        if gone or come:
            yield f"{where}: {gone.total()} of {len(before)} are gone, {come.total()} are new"
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            if key not in before or key not in after:
                yield f"{where} {key}: only in {'the reference' if key in before else 'this recording'}".strip()
            else:
                yield from _between(before[key], after[key], f"{where} {key}".strip())
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{where}: {len(before)} entries were, {len(after)} are"
        for i, (one, other) in enumerate(zip(before, after, strict=False), 1):
            yield from _between(one, other, f"{where}[{i}]")
    elif json.dumps(before) != json.dumps(after):
        yield f"{where}: was {json.dumps(before)}, is {json.dumps(after)}"


def main() -> int:
    """Exit code 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", metavar="PATTERN", default="", help="runs with this in their name")
    parser.add_argument("--ray", action="store_true", help="runs on Ray and compiled ones instead")
    arguments = parser.parse_args()
    print(f"package of {sys.modules['atlas_cli'].__file__}", file=sys.stderr)
    found = record(arguments.only, arguments.ray)
    if arguments.what == "record":
        arguments.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found)} runs recorded in {arguments.file}")
        return 0
    reference = json.loads(arguments.file.read_text(encoding="utf-8"))
    wanted = {name: run for name, run in reference.items() if arguments.only in name}
    differing = differences(wanted, json.loads(json.dumps(found)))
    notes = [line for line in differing if NAMES in line]
    wrong = [line for line in differing if line not in notes]
    for line in wrong:
        print(line)
    if notes:
        runs = len({line.split(":")[0] for line in notes})
        print(f"note: tensors in the checkpoint have other names in {runs} runs, e.g. {notes[0]}")
    print(f"{len(found)} runs compared, {len(wrong)} differences")
    return int(bool(wrong) or not found)


if __name__ == "__main__":
    sys.exit(main())
