"""Clusters of clients as a table, in words, and as a picture of the similarity of their fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from atlas_cli.reports.fitted import layout
from atlas_cli.units import format_bytes_mb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cluster_table(assignment: Mapping[str, int], declared: Mapping[str, str]) -> Table:
    """A row a client: its task group as declared, and its cluster as found."""
    table = Table(title="Clusters", **layout())
    for heading in ("client", "task group", "cluster"):
        table.add_column(heading, justify="right" if heading == "cluster" else "left", overflow="fold")
    for client, number in assignment.items():
        table.add_row(client, declared[client], str(number))
    return table


def cluster_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """The silhouette of every k, agreement with the declared groups, and bytes."""
    silhouettes = record["silhouette_by_k"]
    if silhouettes:
        yield "silhouette by k: " + "  ".join(f"{k}: {value:.2f}" for k, value in silhouettes.items())
    agreement = record["agreement"]
    if agreement is not None:
        yield (
            f"agreement with the declared groups: ARI {agreement['ari']:.2f} (shuffled: up to "
            f"{agreement['shuffled_ari']:.2f}), NMI {agreement['nmi']:.2f} (shuffled: up to "
            f"{agreement['shuffled_nmi']:.2f})"
        )
    yield f"{format_bytes_mb(record['bytes_up'])} up, {format_bytes_mb(record['bytes_down'])} down"


def draw_similarity(
    similarity: NDArray[np.float64], assignment: Mapping[str, int], declared: Mapping[str, str], path: Path
) -> None:
    """The matrix of cosines, clients in the order of their clusters; PNG or SVG by the suffix of ``path``."""
    from matplotlib.figure import Figure

    names = list(assignment)
    order = sorted(range(len(names)), key=lambda i: assignment[names[i]])
    side = min(12.0, 2.5 + 0.3 * len(names))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(similarity[order][:, order], vmin=-1, vmax=1, cmap="RdBu_r")
    labels = [f"{names[i]} ({declared[names[i]]})" for i in order]
    axes.set_yticks(range(len(names)), labels)
    axes.set_xticks(range(len(names)), [str(assignment[names[i]]) for i in order])
    axes.set_xlabel("cluster")
    axes.set_title("cosine of centred fingerprints")
    figure.colorbar(image, shrink=0.8)
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
