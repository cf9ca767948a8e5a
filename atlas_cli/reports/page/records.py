"""Everything that a page is made of: the records of one run, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from atlas_cli.reports.charts.palette import colour_of_group
from atlas_cli.reports.summary import GroupSummary, Record, by_group, summarise
from atlas_cli.runs.directory import RunDirectory


@dataclass(frozen=True)
class RunRecords:
    """The manifest and the records of a run.

    Attributes:
        folder: name of the run directory; ``path``: where it is.
        going_on: the run is being computed, so that records are missing, or will come.
    """

    folder: str
    path: str
    manifest: Mapping[str, Any]
    metrics: Sequence[Record]
    clients: Sequence[Record] = ()
    messages: Sequence[Record] = ()
    clusters: Sequence[Record] = ()
    memory: Record | None = None
    audit: Record | None = None
    going_on: bool = field(default=False, kw_only=True)

    @classmethod
    def of_run(
        cls, run: RunDirectory, manifest: Mapping[str, Any] | None = None, *, going_on: bool = False
    ) -> RunRecords:
        """All records that the run has.

        Args:
            manifest: the final manifest, if it is not yet in the run directory.
            going_on: another process computes the run.

        Raises:
            ResourceError: no manifest, or a damaged record.
        """
        manifest = run.read_json("manifest.json") if manifest is None else manifest
        names = ("metrics.jsonl", "clients.jsonl", "messages.jsonl", "clusters.jsonl")
        metrics, clients, messages, clusters = (run.read_lines(name) for name in names)
        memory, audit = (
            run.read_json(name) if (run.path / name).exists() else None for name in ("memory.json", "audit.json")
        )
        files = (metrics, clients, messages, clusters, memory, audit)
        return cls(run.path.name, str(run.path), manifest, *files, going_on=going_on)

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved config."""
        return self.manifest.get("config") or {}

    @property
    def data(self) -> Mapping[str, Record]:
        """The manifest's facts on the data of every task group."""
        return self.manifest.get("data") or {}

    @cached_property
    def groups(self) -> dict[str, list[Record]]:
        """Metrics by task group, in the order of the config."""
        return by_group(self.metrics)

    @cached_property
    def summaries(self) -> list[GroupSummary]:
        """Every task group over the whole run."""
        return summarise(self.metrics, self.clients, self.data)

    @cached_property
    def by_client(self) -> dict[str, list[Record]]:
        """Records of clients by name, in the order of the config."""
        found: dict[str, list[Record]] = {}
        for row in self.clients:
            found.setdefault(row["client"], []).append(row)
        return found

    @property
    def done(self) -> int | None:
        """The last recorded round; None before there is one."""
        return max((row["round"] for row in self.metrics), default=None)

    @property
    def simulated(self) -> tuple[float, float | None] | None:
        """Seconds and joules of all rounds on the virtual clock; None where a round has no time."""
        by_round = {row["round"]: row for row in self.metrics if row["round"] > 0}
        seconds = [row["simulated_seconds"] for row in by_round.values()]
        joules = [row["simulated_joules"] for row in by_round.values()]
        if not seconds or None in seconds:
            return None
        return sum(seconds), None if None in joules else sum(joules)

    def number(self, group: str) -> int:
        """The place of a task group, which gives it its colour, marker and dash."""
        return list(self.groups).index(group)

    def colour(self, group: str) -> str:
        """The colour of a task group, in every chart."""
        return colour_of_group(self.number(group))

    def entry_of(self, client: str) -> Mapping[str, Any] | None:
        """What the config says of a client, or of the template that it is made from; None if it names neither."""
        named = self.config.get("clients", {})
        found: Mapping[str, Any] | None = named.get(client) or named.get(client.rpartition("-")[0])
        return found


def counted(number: int, one: str, many: str = "") -> str:
    """``1 client``, ``1,200 clients``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
