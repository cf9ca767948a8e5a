"""The parts of report.html in their order, from the run's records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atlas_cli.reports.escaped import escape
from atlas_cli.reports.page.audit import audit
from atlas_cli.reports.page.classes import classes
from atlas_cli.reports.page.clients import every_client, failures, skew
from atlas_cli.reports.page.clock import devices
from atlas_cli.reports.page.clusters import clusters
from atlas_cli.reports.page.costs import memory, wire
from atlas_cli.reports.page.document import document
from atlas_cli.reports.page.facts import facts, settings
from atlas_cli.reports.page.headline import headline, unfinished
from atlas_cli.reports.page.merging import merging
from atlas_cli.reports.page.privacy import privacy
from atlas_cli.reports.page.proof import proof
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.page.scores import scores
from atlas_cli.runs.directory import RunDirectory

FILE = "report.html"
SECTIONS: Mapping[str, Callable[[RunRecords], str]] = {
    "Test metrics": scores,
    "By class": lambda records: classes(records) if records.metrics else "",
    "Bytes on the wire": wire,
    "Memory": memory,
    "Devices and time": lambda records: devices(records) if records.clients else "",
    "Proof": proof,
    "Merging": lambda records: merging(records) if records.metrics else "",
    "Label skew": skew,
    "Failed and late clients": lambda records: failures(records) if records.metrics else "",
    "Clients": lambda records: every_client(records) if records.clients else "",
    "Privacy": privacy,
    "Audit": audit,
    "Clusters": clusters,
    "Run": lambda records: facts(records.manifest),
    "Settings": lambda records: settings(records.config),
}
OPTIONAL = {"Audit", "Clusters", "Label skew"}  # left out where a run has none


def write_report(run: RunDirectory, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write report.html from the run's JSON files; for an unfinished run it has the parts that exist.

    Args:
        manifest: the final manifest, if it is not yet in the run directory.

    Raises:
        ResourceError: no manifest, or a damaged record.
        OutputError: the page cannot be written.
    """
    run.write_text(FILE, page(run, manifest))
    return run.path / FILE


def page(run: RunDirectory, manifest: Mapping[str, Any] | None = None) -> str:
    """The page as text."""
    return page_of(RunRecords.of_run(run, manifest))


def page_of(records: RunRecords, *, written: str | None = None) -> str:
    """The page of some records; while a run goes on, without the sections that it has no records for.

    Args:
        written: when, if the page is going to be written again; then it loads itself.
    """
    parts = {title: part(records) for title, part in SECTIONS.items()}
    absent = "<p>Nothing recorded.</p>"
    shown = {
        title: part or absent for title, part in parts.items() if part or not (title in OPTIONAL or records.going_on)
    }
    name, status = str(records.manifest.get("name") or records.folder), str(records.manifest.get("status"))
    state = f'<span class="status {escape(status)}">{escape(status)}</span>'
    first = f'<h1>{escape(name)}</h1><p>{state} <span class="muted">{escape(records.folder)}</span></p>\n'
    head = f"<header>{first}{unfinished(records, written)}{headline(records)}</header>\n"
    return document(name, head, shown, again=written is not None)
