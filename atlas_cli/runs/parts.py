"""The parts of a run: the processes that computed it, one after the other, and their totals.

A resumed run may have used other versions, threads or machines on the way; the manifest lists them all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Part = dict[str, Any]

# what a part has of the process that it was computed in; the manifest itself has those of the first
OF_THE_PROCESS = ("started", "command", "device", "threads", "versions", "git", "platform")
_COUNTED = {"hits", "misses", "replaced", "moved_bytes", "ledger_bytes"}
_PEAKS = {"peak_disk_bytes"}


def first_part(manifest: Mapping[str, Any]) -> Part:
    """The part of a process that now starts, as recorded in its manifest."""
    own = {key: manifest[key] for key in OF_THE_PROCESS}
    return {"after_round": None, "status": "running", **own, "ended": None, "duration_s": None}


def resumed_manifest(
    before: Mapping[str, Any], fresh: Mapping[str, Any], after_round: int, changed_code: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a resumed run: that of the process which now starts, with the parts before it.

    Args:
        before: the manifest found; a part of it without a recorded end was killed.
        changed_code: files of plug-ins that are not what they were before, with both hashes.
    """
    parts = [{**part, "status": "killed"} if part.get("status") == "running" else part for part in before["parts"]]
    kept = {
        key: before[key]
        for key in (*OF_THE_PROCESS, "experiment_sha256", "adapters_of_round", "best", "warm_starts")
        if key in before
    }
    part = {**fresh["parts"][-1], "after_round": after_round}
    return {**fresh, **kept, "parts": [*parts, {**part, "changed_code": dict(changed_code)} if changed_code else part]}


def end_parts(parts: Sequence[Part], status: str, engine: Mapping[str, Any]) -> list[Part]:
    """The parts of a run whose last part now ends.

    Args:
        engine: figures of the last part, by component.
    """
    now = datetime.now(UTC)
    seconds = (now - datetime.fromisoformat(parts[-1]["started"])).total_seconds()
    last = {
        **parts[-1],
        "status": status,
        "ended": now.isoformat(),
        "duration_s": round(seconds, 3) if seconds >= 0 else None,  # the clock was set back
        "process_rss_peak": peak_resident_bytes(),
        **({"engine": dict(engine)} if engine else {}),
    }
    return [*parts[:-1], last]


def totals(parts: Sequence[Part]) -> dict[str, Any]:
    """The totals of a run: seconds, the largest memory of a process, and the figures of engines.

    Counts are summed, peaks are the largest, and what describes a state is that of the last. Of a process that was
    killed, or whose clock was set back, the seconds are not known, so there they are null.
    """
    seconds = [took for part in parts if isinstance(took := part.get("duration_s"), int | float)]
    peaks = [peak for part in parts if isinstance(peak := part.get("process_rss_peak"), int)]
    engine: dict[str, Any] = {}
    for part in parts:
        for name, figures in (part.get("engine") or {}).items():
            engine[name] = _joined(engine.get(name, {}), figures)
    return {
        "duration_s": round(sum(seconds), 3) if len(seconds) == len(parts) else None,
        "process_rss_peak": max(peaks, default=None),
        **({"engine": engine} if engine else {}),
    }


def _joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    result = {**before, **now}
    for key in before.keys() & now.keys():
        if key in _COUNTED:
            result[key] = _sum(before[key], now[key])
        elif key in _PEAKS:
            result[key] = max(before[key], now[key])
    return result


def _sum(one: Any, other: Any) -> Any:
    """Of numbers, or of numbers by name."""
    if isinstance(one, Mapping):
        return {key: one.get(key, 0) + other.get(key, 0) for key in [*one, *(k for k in other if k not in one)]}
    return one + other


def peak_resident_bytes() -> int | None:
    """Peak resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
