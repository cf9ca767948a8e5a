"""The command line: one file a command, found by its name (``memory_report.py`` is ``atlas memory-report``).

A file holds either a function ``command`` or, for a group of commands, a Typer ``app``. Files whose name starts with an
underscore are shared code. Command files import torch, and what imports it, inside their functions: so ``atlas --help``
stays fast.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Annotated

import typer

from atlas_cli import discovery
from atlas_cli.cli._help import Command, Group
from atlas_cli.errors import AtlasError
from atlas_cli.interrupts import interrupts_between_imports
from atlas_cli.printable import printable

SHOWN_OF_ERROR = 500  # characters at each end of an error's line

app = typer.Typer(
    cls=Group,
    help="Split federated fine-tuning of Hugging Face language models with LoRA adapters of different ranks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"atlas {version('atlas-cli')}")
        except PackageNotFoundError:
            typer.echo("atlas (not installed)")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show errors, and what --json prints, alone; may stand anywhere.")
    ] = False,
) -> None:
    """Options of every command; ``main`` takes ``--debug`` and ``--quiet`` out before Typer sees them."""


# in this order in the help
_SECTIONS = ("Run", "Plan and check", "Look at results", "Use a trained model", "Set up", "Added")


def _section(module: ModuleType) -> str:
    """The ``SECTION`` of a command's file; one that was added need not name any."""
    found: str = getattr(module, "SECTION", "")
    return found if found in _SECTIONS else _SECTIONS[-1]


_modules = {name: discovery.load("cli", name) for name in discovery.names("cli")}
for _name, _module in sorted(_modules.items(), key=lambda item: _SECTIONS.index(_section(item[1]))):
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name, rich_help_panel=_section(_module))
    else:
        _shown = "\n".join(getattr(_module, "EXAMPLES", ()))
        app.command(_name, cls=Command, rich_help_panel=_section(_module), epilog=_shown)(_module.command)


def main(argv: list[str] | None = None) -> int:
    """Run ``atlas`` and return the exit code; an error that atlas can name is one line on standard error."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug, quiet = "--debug" in args, "--quiet" in args
    _escape_what_cannot_be_encoded()
    try:
        with interrupts_between_imports(), _output(quiet):
            app([arg for arg in args if arg not in ("--debug", "--quiet")], prog_name="atlas")
        return 0
    except SystemExit as stop:  # how Typer ends, with its own usage errors (2) and an interrupt (130) already handled
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except AtlasError as error:
        if debug:
            raise
        from atlas_cli.plugin_errors import described

        _show_error("; ".join([described(error), *_notes(error)]))
        return error.exit_code
    except Exception as error:
        if _has_no_reader(error):  # whoever closed the pipe knows; what a run says of going on is still said
            if notes := _notes(error):
                _show_error("; ".join([str(error), *notes]))
            return 1
        if debug:
            raise
        from atlas_cli.plugin_errors import described, plugin_of

        missing = isinstance(error, OSError) and error.filename is not None
        if isinstance(error, OSError) and missing and plugin_of(error) is None:
            _show_error("; ".join([f"{error.filename!s:.200}: {error.strerror}", *_notes(error)]))
        else:
            _show_error("; ".join([described(error), *(_notes(error) or ["run again with --debug for the traceback"])]))
        return 3 if missing else 1
    finally:
        _flush()


def _output(quiet: bool) -> AbstractContextManager[None]:
    if not quiet:
        return nullcontext()
    from atlas_cli.notes import quietly

    return quietly()


def _escape_what_cannot_be_encoded() -> None:
    """Let the standard streams escape what their encoding lacks (cp1252, latin-1, ASCII), where Python would raise.

    On Windows what goes into a file or a pipe is UTF-8, as in every file of a run, and not of the system's code page.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            into_a_file = os.name == "nt" and not stream.isatty()
            stream.reconfigure(encoding="utf-8" if into_a_file else None, errors="backslashreplace")


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def _show_error(text: str) -> None:
    from atlas_cli.storage.secrets import mask

    for line in printable(mask(text)).splitlines():
        print(f"error: {_bounded(line)}", file=sys.stderr)


def _bounded(line: str) -> str:
    """The line without its middle where nobody would read it all: what comes first and what to do next stay."""
    if len(line) <= 2 * SHOWN_OF_ERROR:
        return line
    left_out = len(line) - 2 * SHOWN_OF_ERROR
    return f"{line[:SHOWN_OF_ERROR]} ... ({left_out:,} characters left out) ... {line[-SHOWN_OF_ERROR:]}"


def _has_no_reader(error: Exception) -> bool:
    """Whether an error says that nobody reads a pipe any more; Windows calls that an invalid argument."""
    if os.name == "nt" and isinstance(error, OSError) and error.filename is None:
        return error.errno in (errno.EPIPE, errno.EINVAL)
    return isinstance(error, BrokenPipeError)


def _flush() -> None:
    """Write out standard output now, where there is one: the interpreter would complain at exit about a reader that is
    gone."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if not _has_no_reader(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
