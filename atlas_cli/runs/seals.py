"""Seals: the lengths and hashes of a run's record files, stored in each checkpoint and, at the end, in the manifest.

Each record that is read is compared with the newest seal, so that a line lost, doubled or altered since is an error.
sums.jsonl has a short sum of every line, which tells which one differs.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_cli.errors import ResourceError
from atlas_cli.hashing import sha256_text
from atlas_cli.storage.strict_json import strict_json

if TYPE_CHECKING:
    from hashlib import _Hash

SUMS = "sums.jsonl"
INDEX = "messages/index.jsonl"
SELF_CHECKED = ("manifest.json", "audit.json")  # have the hash of the rest of them in ``sha256``
CLIENTS, MESSAGES, LABELS = "clients.jsonl", "messages.jsonl", "labels.jsonl"
LINES = ("metrics.jsonl", CLIENTS, LABELS, "clusters.jsonl", MESSAGES, INDEX, SUMS)
MEMORY = "memory.json"
FILES = (*LINES, MEMORY)
ADVICE = "restore the file from a copy, or start the experiment anew"
_PIECE = 2**20


@dataclass(frozen=True)
class Seal:
    """The first ``bytes`` of a file, and their SHA-256."""

    bytes: int
    sha256: str


Seals = dict[str, Seal]


@dataclass(frozen=True)
class RunSeals:
    """The newest seals of a run; with ``ended`` it writes no more, so that nothing may follow the sealed bytes."""

    files: Seals
    ended: bool


def seals_record(seals: Mapping[str, Seal]) -> dict[str, Any]:
    """Seals as JSON."""
    return {name: asdict(seal) for name, seal in seals.items()}


def seals_from(record: Any) -> Seals:
    """The inverse of ``seals_record``.

    Raises:
        ValueError: the record is invalid.
    """
    if not isinstance(record, dict):
        raise ValueError("records is no mapping")
    for name, facts in record.items():
        if name not in FILES or not isinstance(facts, dict) or facts.keys() != {"bytes", "sha256"}:
            raise ValueError(f"records has {name!r:.40}, which is no record file with bytes and sha256")
        if type(facts["bytes"]) is not int or facts["bytes"] < 0:
            raise ValueError(f"records has no length of {name}")
        if not isinstance(facts["sha256"], str) or not re.fullmatch(r"[0-9a-f]{64}", facts["sha256"]):
            raise ValueError(f"records has no hash of {name}")
    return {name: Seal(**facts) for name, facts in record.items()}


def with_sum(obj: Mapping[str, Any]) -> dict[str, Any]:
    """JSON that has the hash of the rest of it, for one of ``SELF_CHECKED``."""
    rest = json.loads(strict_json({key: value for key, value in obj.items() if key != "sha256"}))
    return {**rest, "sha256": _sum(rest)}


def without_sum(found: Any, path: Path) -> Any:
    """The inverse of ``with_sum``; content without a hash is of an earlier version, and is not compared.

    Raises:
        ResourceError: the content was changed.
    """
    if not isinstance(found, dict) or "sha256" not in found:
        return found
    rest = {key: value for key, value in found.items() if key != "sha256"}
    if _sum(rest) != found["sha256"]:
        raise ResourceError(f"{path} is damaged: it is not what was written (by hash); {ADVICE}")
    return rest


def seals_of(run: Path) -> RunSeals | None:
    """The seals in the manifest of a run that ended, else in its newest checkpoint; None if there are none.

    Raises:
        ResourceError: the manifest is damaged, or its seals are invalid.
    """
    manifest = without_sum(_json(run / "manifest.json"), run / "manifest.json")
    if isinstance(manifest, dict) and "records" in manifest:
        try:
            return RunSeals(seals_from(manifest["records"]), ended=True)
        except ValueError as error:
            raise ResourceError(f"{run / 'manifest.json'} is damaged: {error}; {ADVICE}") from None
    for path in sorted((run / "checkpoints").glob("round-*/records.json"), reverse=True, key=_round):
        try:
            return RunSeals(seals_from(_json(path)), ended=False)
        except ValueError:
            continue  # an older one says less, and what it says is right, too
    return None


def require_unchanged(run: Path, name: str, content: bytes, said: RunSeals | None) -> None:
    """Compare the bytes read from a record file (b"" if it is missing) with its seal.

    Raises:
        ResourceError: they differ; names the line where it can be found.
    """
    if said is None:
        return
    seal = said.files.get(name, Seal(0, hashlib.sha256().hexdigest()))
    if hashlib.sha256(content[: seal.bytes]).hexdigest() != seal.sha256 or len(content) < seal.bytes:
        raise differs(run, name, said.files)
    if said.ended and len(content) > seal.bytes:
        line = content.count(b"\n", 0, seal.bytes) + 1
        raise ResourceError(f"{run / name}:{line}: more was added after the run ended; {ADVICE}")


def require_prefix(run: Path, name: str, seals: Seals) -> _Hash:
    """The running hash of the sealed bytes of a file, to be continued.

    Raises:
        ResourceError: the file begins with other bytes, or is missing.
    """
    hasher, left = hashlib.sha256(), seals[name].bytes
    try:
        with (run / name).open("rb") as file:
            while left and (piece := file.read(min(left, _PIECE))):
                hasher.update(piece)
                left -= len(piece)
    except FileNotFoundError:
        raise ResourceError(f"{run / name} is missing; {ADVICE}") from None
    except OSError as error:
        raise ResourceError(f"cannot read {run / name}: {error.strerror}") from None
    if left or hasher.hexdigest() != seals[name].sha256:
        raise differs(run, name, seals)
    return hasher


def differs(run: Path, name: str, seals: Seals) -> ResourceError:
    """The error for a changed file, with the first line that differs where it can be found."""
    path = run / name
    if not path.exists():
        return ResourceError(f"{path} is missing; {ADVICE}")
    if name == MEMORY:
        advice = "restore it from a copy, or remove it: memory is measured anew when the run goes on"
        return ResourceError(f"{path} is not what was written (by hash); {advice}")
    if (wanted := _sums(run, name, seals)) is None:
        return ResourceError(f"{path} is not what was written (by hash); {ADVICE}")
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number > len(wanted) or line_sum(line) != wanted[number - 1]:
                why = "was altered, or lines were lost or added from here on"
                return ResourceError(f"{path}:{number}: not what was written: this line {why}; {ADVICE}")
    lines = "1 line was" if len(wanted) == 1 else f"{len(wanted):,} lines were"
    return ResourceError(f"{path} ends after line {number}, and {lines} written; {ADVICE}")


def line_sum(line: bytes) -> str:
    """The sum of a line, with its end, as in sums.jsonl."""
    return f"{zlib.crc32(line):08x}"


def _sums(run: Path, name: str, seals: Seals) -> list[str] | None:
    """Of every line that is sealed of a file; None where they are not known."""
    if name not in LINES or name == SUMS or SUMS not in seals:
        return None
    try:
        content = (run / SUMS).read_bytes()[: seals[SUMS].bytes]
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != seals[SUMS].sha256:
        return None
    found = (json.loads(line) for line in content.splitlines())
    text = "".join(each["crc32"] for each in found if each["file"] == name)
    return [text[i : i + 8] for i in range(0, len(text), 8)]


def _sum(rest: Mapping[str, Any]) -> str:
    return sha256_text(json.dumps(rest, sort_keys=True))


def _round(path: Path) -> int:
    number = path.parent.name.removeprefix("round-")
    return int(number) if number.isdecimal() else -1


def _json(path: Path) -> Any:
    """Content of a JSON file; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
