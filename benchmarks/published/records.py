"""Verdicts on record: what each claim gave when it was last written down, by paper and name."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from paired import Interval

from atlas_cli.runs.manifest import start_manifest
from published.claim import Claim, Value, worse

HERE = Path(__file__).parent
RECORDS = HERE / "records.json"
WRITTEN = ("benchmarks/published/records.json", "docs/results/published.md")  # by ``--write``, of papers before
SHARED = ("__init__", "all", "claim", "merging", "page", "planned", "ranked", "records", "trained")  # about no paper


@dataclass(frozen=True)
class Record:
    """What a claim gave.

    Attributes:
        printed, measured: by figure.
        conditions: date, commit, versions and processor.
    """

    verdict: str
    printed: Mapping[str, str]
    measured: Mapping[str, Value]
    conditions: Mapping[str, Any]


Records = dict[str, dict[str, Record]]  # by paper and name of the claim


def papers() -> dict[str, ModuleType]:
    """The files about papers, by name."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED)
    return {name: import_module(f"published.{name}") for name in names}


def measured(claim: Claim) -> Record:
    """Measure a claim now."""
    values = [plain(value) for value in claim.measure()]
    names = [figure.name for figure in claim.figures]
    return Record(
        claim.verdict(values),
        {figure.name: figure.printed for figure in claim.figures},
        dict(zip(names, values, strict=True)),
        conditions(),
    )


def plain(value: Value) -> Value:
    """A value of Python's own types, as it is on record."""
    return value if value is None or isinstance(value, Interval) else float(value)


def conditions() -> dict[str, Any]:
    """Under what it was measured."""
    manifest = start_manifest({}, [], 0, "cpu", 1, {}, {})
    kept = ("python", "torch", "transformers")
    git = manifest["git"] or {}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git.get("commit"),
        "changed": changed(),
        "versions": {name: manifest["versions"][name] for name in kept},
        "cpu": manifest["platform"]["cpu"],
    }


def changed(folder: Path = HERE.parents[1]) -> bool | None:
    """Whether the checkout is not what is committed, apart from what ``--write`` writes; None outside of one."""
    others = [f":(exclude){name}" for name in WRITTEN]
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--", ".", *others], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return bool(done.stdout)


def read(path: Path = RECORDS) -> Records:
    """The records; none where the file is not there yet."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {paper: {name: _record(**record) for name, record in claims.items()} for paper, claims in found.items()}


def _record(verdict: str, printed: Any, measured: Any, conditions: Any) -> Record:
    values = {name: Interval(*value) if isinstance(value, list) else value for name, value in measured.items()}
    return Record(verdict, printed, values, conditions)


def write(records: Records, path: Path = RECORDS) -> None:
    """Replace the file."""
    plain = {
        paper: {name: asdict(record) for name, record in claims.items()} for paper, claims in sorted(records.items())
    }
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8", newline="\n")


def regressions(now: Records, recorded: Records) -> list[str]:
    """What is worse than it was, in words."""
    found = []
    for paper, claims in now.items():
        for name, record in claims.items():
            before = recorded.get(paper, {}).get(name)
            if before is not None and worse(record.verdict, before.verdict):
                found.append(f"{paper}: {name}: {record.verdict}, and was {before.verdict}")
    return found
