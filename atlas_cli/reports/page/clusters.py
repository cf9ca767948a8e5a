"""The clusters that were found, round by round, and who is in which at the end."""

from __future__ import annotations

from collections import Counter

from atlas_cli.reports.page.elements import Cell, figures, table, words
from atlas_cli.reports.page.records import RunRecords


def clusters(records: RunRecords) -> str:
    """A row a clustering, and the last assignment."""
    if not records.clusters:
        return ""
    rows: list[tuple[Cell, ...]] = []
    for found in records.clusters:
        sizes = Counter(found["assignment"].values())
        agreement = found["agreement"] or {}
        agreed = [agreement.get(name) for name in ("ari", "shuffled_ari", "nmi", "shuffled_nmi")]
        held = ", ".join(f"{name}: {size}" for name, size in sorted(sizes.items()))
        rows.append((found["round"], found["by"], held, *agreed, len(found["moved"])))
    columns = [figures("before round"), words("by"), words("clients by cluster")]
    columns += map(figures, ("ARI", "ARI when shuffled, up to", "NMI", "NMI when shuffled, up to", "moved"))
    last = sorted(records.clusters[-1]["assignment"].items(), key=lambda item: item[1])
    held = table([words("client"), words("cluster")], last, "Clusters at the end", "clusters.jsonl")
    return table(columns, rows, "Clusterings and their agreement with the task groups", "clusters.jsonl") + held
