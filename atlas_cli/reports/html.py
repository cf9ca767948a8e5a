"""report.html: one file that holds all it shows, no script and no address in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas_cli.reports import privacy, sections
from atlas_cli.reports.escaped import escape
from atlas_cli.runs.directory import RunDirectory

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #ddd; }
.status { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: #fff;
          font-size: 13px; background: #4d4d4d; }
.status.finished { background: #00684c; } .status.failed { background: #a34700; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.unfinished { border-left: 5px solid #a34700; background: #fdf3ea; padding: .6rem 1rem; font-weight: 600; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th { color: #555; font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; max-width: 860px; }
figcaption { color: #555; font-size: 13.5px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 0 1.5rem; }
summary { cursor: pointer; }
"""


def write_report(run: RunDirectory, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write report.html from the run's JSON files; for an unfinished run it has the parts that exist.

    Args:
        manifest: the final manifest, if it is not yet in the run directory.

    Raises:
        ResourceError: no manifest, or a damaged record.
        OutputError: the page cannot be written.
    """
    run.write_text("report.html", page(run, manifest))
    return run.path / "report.html"


def page(run: RunDirectory, manifest: Mapping[str, Any] | None = None) -> str:
    """The page as text."""
    manifest = run.read_json("manifest.json") if manifest is None else manifest
    metrics, clients, messages = (run.read_lines(name) for name in ("metrics.jsonl", "clients.jsonl", "messages.jsonl"))
    clustered = run.read_lines("clusters.jsonl")
    config = manifest.get("config") or {}
    parts = {
        "Result": sections.result(metrics, clients, manifest.get("data") or {}) if metrics else "",
        "Proof": sections.proof(manifest, clients),
        "Privacy": privacy.section(metrics, manifest.get("privacy")) if metrics else "",
        "Bytes on the wire": sections.ledger(messages) if messages else "",
        "Memory": _memory(run, manifest),
        **({"Audit": sections.audit(run.read_json("audit.json"))} if (run.path / "audit.json").exists() else {}),
        **({"Clusters": sections.clusters(clustered)} if clustered else {}),
        "Clients": sections.clients(clients, config, metrics) if clients else "",
        "Run": sections.facts(manifest),
        "Settings": sections.settings(config),
    }
    absent = "<p>Nothing recorded.</p>"
    body = "".join(f"<section><h2>{escape(title)}</h2>\n{part or absent}</section>\n" for title, part in parts.items())
    name = escape(str(manifest.get("name") or run.path.name))
    status = escape(str(manifest.get("status")))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>'
        f"<style>{_CSS}</style></head>\n"
        f'<body><h1>{name}</h1><p><span class="status {status}">{status}</span> {escape(run.path.name)}</p>\n'
        f"{_unfinished(run, manifest, metrics)}{body}</body></html>\n"
    )


def _memory(run: RunDirectory, manifest: Mapping[str, Any]) -> str:
    if not (run.path / "memory.json").exists():
        return ""
    return sections.memory(run.read_json("memory.json"), manifest.get("process_rss_peak"))


def _unfinished(run: RunDirectory, manifest: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """How far a run came that did not finish; "" for one that did."""
    status = str(manifest.get("status"))
    if status == "finished":
        return ""
    done = max((line["round"] for line in metrics), default=None)
    rounds = ((manifest.get("config") or {}).get("training") or {}).get("rounds", "?")
    how_far = "before its first round" if done is None else f"after round {done} of {rounds}"
    why = f": {manifest['error']}" if manifest.get("error") else ""
    text = f"{'Not finished' if status == 'running' else status.capitalize()} {how_far}{why}"
    of_round = manifest.get("adapters_of_round")
    kept = f"adapters/ is of round {of_round}" if of_round is not None else "there are no trained adapters"
    return (
        f'<p class="unfinished">{escape(text)}. All figures are of the rounds until then; {escape(kept)}. '
        f"To go on: atlas train --resume {escape(shlex.quote(str(run.path)))}</p>\n"
    )
