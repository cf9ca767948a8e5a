"""``atlas report``: the page of a run or of a sweep, made anew from its records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas_cli.cli._arguments import Json

if TYPE_CHECKING:
    from atlas_cli.runs.directory import RunDirectory

SECTION = "Look at results"
EXAMPLES = ("atlas report --open", "atlas report runs/20260131-120000_quickstart_0 --output result.html")


def command(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN|SWEEP]", help="Run or sweep directory; default: the newest run under runs/."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write the page here, not into the directory.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Make report.html anew from the records of a run or a sweep, whatever state it is in.

    A page is one file that needs no network. While a run is computed, it writes its own page, which grows with every
    evaluation and is the one that is named and opened; all records so far go to the file that --output names.
    """
    from atlas_cli.reports.page.report import FILE
    from atlas_cli.reports.terminal import Terminal
    from atlas_cli.runs.directory import RunDirectory, open_run
    from atlas_cli.runs.listing import newest_run

    if output is not None:
        _refuse_what_is_no_report(output)
    if source is not None and (source / "sweep.json").is_file():
        folder = RunDirectory(source)
        page: str | None = _page_of_sweep(folder)
    else:
        folder = newest_run() if source is None else open_run(source)
        page = _page_of_run(folder, output)
    grows = page is None  # the run writes it
    if output is None:
        output = folder.path / FILE
        if page is not None:
            folder.write_text(FILE, page)
    elif page is not None:
        with _writing(output):
            output.write_text(page, encoding="utf-8", newline="\n")
    if as_json:
        typer.echo(json.dumps({"report": str(output)}, indent=2))
    console = Terminal(stderr=as_json)
    if not as_json:
        console.say(f"report {output}{' (the run goes on, and writes it anew as it does)' if grows else ''}")
    if show:
        import webbrowser

        if not webbrowser.open(output.resolve().as_uri()):
            console.say("no browser was found here; open the file in one")


def _refuse_what_is_no_report(output: Path) -> None:
    """Before a page is made: a file of something else is not overwritten, and a folder must be there."""
    from atlas_cli.errors import ConfigError, OutputError
    from atlas_cli.reports.page.document import is_document

    if output.is_dir():
        raise OutputError(f"--output: cannot write {output}: it is a folder; name a file in it with --output")
    if not output.parent.is_dir():
        raise OutputError(f"--output: cannot write {output}: there is no folder {output.parent}; make it first")
    with _writing(output):
        if output.is_file() and not is_document(output):
            raise ConfigError(
                f"{output} exists and is no report that atlas wrote, so it is not overwritten; choose another file",
                key="--output",
            )


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    from atlas_cli.errors import OutputError

    try:
        yield
    except OSError as error:
        raise OutputError(
            f"--output: cannot write {output}: {error.strerror or error}; choose another file with --output"
        ) from error


def _page_of_run(run: RunDirectory, output: Path | None) -> str | None:
    """The page; None where the run is being computed and has written one itself."""
    from atlas_cli.errors import OutputError
    from atlas_cli.reports.page.records import RunRecords
    from atlas_cli.reports.page.report import FILE, page_of
    from atlas_cli.runs.run_lock import writer_of

    writer = writer_of(run)
    if writer is not None and output is None:
        if (run.path / FILE).is_file():
            return None
        raise OutputError(
            f"{run.path} is written by {writer}, and its report.html with it; --output FILE writes all records so far"
        )
    return page_of(RunRecords.of_run(run, going_on=writer is not None))


def _page_of_sweep(folder: RunDirectory) -> str:
    from atlas_cli.reports.page.sweep import sweep_page

    return sweep_page(folder.path, folder.read_json("sweep.json"))
