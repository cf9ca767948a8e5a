"""``atlas cluster``: which clients share a task, by sketches of their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas_cli.cli._arguments import ConfigFile, Json, Overrides

if TYPE_CHECKING:
    from atlas_cli.clustering.clusterer import Clusters

SECTION = "Plan and check"
EXAMPLES = ("atlas cluster quickstart --output clusters",)


def command(
    file: ConfigFile,
    overrides: Overrides = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Number of clusters; default: clustering.k of FILE, or auto.")
    ] = None,
    batches: Annotated[
        int | None, typer.Option(min=1, help="Batches of each client; default: clustering.batches of FILE, or 24.")
    ] = None,
    as_json: Json = False,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write similarity.png, similarity.svg and clusters.json here.")
    ] = None,
) -> None:
    """Find which clients of FILE share a task, and compare with the task groups that FILE declares.

    A fingerprint is a client's gradient of every lora_B on the shared initial adapter, sketched to 64 numbers; nothing
    is trained. Agreement is ARI and NMI, beside what shuffled assignments reach (95th percentile). To merge adapters
    by what is found here, give FILE a section clustering.
    """
    import json

    from atlas_cli.clustering.fingerprints import fingerprint_round
    from atlas_cli.clustering.in_a_run import clusterer_of
    from atlas_cli.config.load import load_config, locating
    from atlas_cli.config.schema.clustering import ClusteringConfig
    from atlas_cli.errors import OutputError
    from atlas_cli.experiment.round_loop import require_matching
    from atlas_cli.federation.build import build
    from atlas_cli.reports.terminal import Terminal, busy
    from atlas_cli.wire.ledger import Ledger

    if output is not None and output.exists() and not output.is_dir():
        raise OutputError(f"{output} cannot be written: it is a file; choose another --output")
    loaded = load_config(file, overrides or [])
    with locating(loaded), busy(f"taking fingerprints of the clients of {file}"):
        rule = loaded.config.clustering or ClusteringConfig()
        given = {name: value for name, value in (("k", k), ("batches", batches)) if value is not None}
        rule = rule.model_copy(update=given)
        clusterer = clusterer_of(rule, loaded.config.seed)
        clusterer.check_count(sum(loaded.config.group_sizes().values()))
        federation, ledger = build(loaded.config), Ledger()
        clusters = clusterer.cluster(fingerprint_round(federation, ledger, rule.batches, rule.size))
        require_matching(ledger)
    declared = {client: federation.group_of(client) for client in federation.clients}
    found = _record(clusters, declared)
    found["bytes_up"] = ledger.total("up", declared)
    found["bytes_down"] = ledger.total("down", declared)
    if output is not None:
        _write(output, clusters, declared, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from atlas_cli.reports.clusters import cluster_notes, cluster_table

    console = Terminal()
    console.print(cluster_table(clusters.assignment, declared))
    for line in cluster_notes(found):
        console.say(line)


def _record(clusters: Clusters, declared: dict[str, str]) -> dict[str, Any]:
    agreement = clusters.compare(declared) if len(set(declared.values())) > 1 else None
    return {
        "k": clusters.k,
        "assignment": dict(clusters.assignment),
        "declared": declared,
        "silhouette_by_k": {str(k): value for k, value in clusters.silhouette_by_k.items()},
        "agreement": agreement,
        "similarity": clusters.similarity.tolist(),
    }


def _write(folder: Path, clusters: Clusters, declared: dict[str, str], record: dict[str, Any]) -> None:
    import json

    from atlas_cli.errors import OutputError
    from atlas_cli.reports.clusters import draw_similarity

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clusters.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8", newline="\n")
        for suffix in ("png", "svg"):
            draw_similarity(clusters.similarity, clusters.assignment, declared, folder / f"similarity.{suffix}")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from None
