"""What trackers are told: the figures of a round, and those of a whole run, each by a name with slashes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from atlas_cli.reports.summary import Record, summarise

_OF_A_GROUP = ("train_loss", "bytes_up", "bytes_down", "seconds", "aggregation_error", "client_lr", "server_lr")
_OF_A_ROUND = ("simulated_seconds", "simulated_joules")


def round_figures(rows: Sequence[Record]) -> dict[str, float]:
    """Of the metrics records of one round; what is not known, or no finite number, is left out."""
    found: dict[str, float | None] = {}
    for row in rows:
        group = row["task_group"]
        for part in ("test", "validation"):
            found |= {f"{group}/{part}/{name}": value for name, value in (row.get(part) or {}).items()}
        found |= {f"{group}/{name}": row[name] for name in _OF_A_GROUP}
        found |= {f"round/{name}": row[name] for name in _OF_A_ROUND}
    return _known(found)


def run_figures(metrics: Sequence[Record], memory: Record | None, seconds: float | None) -> dict[str, float]:
    """Of a whole run: of each task group the last and the best primary metric and all bytes; memory; time."""
    found: dict[str, float | None] = {"seconds": seconds}
    for group in summarise(metrics, ()):
        values = {"last": group.after, "best": group.best, "best_round": group.best_round}
        found |= {f"{group.task_group}/{name}": value for name, value in values.items()}
        found |= {f"{group.task_group}/bytes_up": group.bytes_up, f"{group.task_group}/bytes_down": group.bytes_down}
    return _known(found) | memory_figures(memory)


def memory_figures(memory: Record | None) -> dict[str, float]:
    """Measured bytes of the largest client and of the server, from memory.json."""
    if memory is None:
        return {}
    largest = max((client["total"] for client in memory["clients"].values()), default=None)
    server = memory["server"]["total"] if memory["server"] else None
    return _known({"memory/largest_client_bytes": largest, "memory/server_bytes": server})


def _known(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
