"""The commands, from the functions behind them: what ``atlas COMMAND --help`` says, on one page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from typer.models import ArgumentInfo, ParameterInfo

from atlas_cli import discovery
from pages.prose import NOTE, cell, inline, table

EXIT_CODES = [
    ("0", "All is well."),
    ("1", "The command failed."),
    ("2", "There is a mistake in the command line or in the config."),
    ("3", "A model, data or a file was not found."),
    ("4", "A value is not finite."),
    ("5", "Nothing is feasible, or too few clients are left."),
    ("130", "The command was interrupted, after a checkpoint."),
]


class Parameter(NamedTuple):
    """An argument or an option of a command: its name in the function, what Typer knows, its type and its default."""

    name: str
    info: ParameterInfo
    type: Any
    default: Any

    @property
    def argument(self) -> bool:
        """Whether it is given by its place."""
        return isinstance(self.info, ArgumentInfo)

    @property
    def required(self) -> bool:
        """Whether a command needs it."""
        return self.default is inspect.Parameter.empty

    @property
    def options(self) -> list[str]:
        """How it is written: ``--by-layer``."""
        first = [self.info.default] if isinstance(self.info.default, str) else []  # where Typer keeps it in Annotated
        return [*first, *(self.info.param_decls or ())] or [f"--{self.name.replace('_', '-')}"]


def commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Each command's name and function, those of groups as ``config show``."""
    for name in discovery.own_names("cli"):
        module = discovery.load("cli", name)
        if hasattr(module, "app"):
            for each in module.app.registered_commands:
                yield f"{name} {each.name or each.callback.__name__}", each.callback
        else:
            yield name, module.command


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The arguments and options of a command."""
    found = []
    for each in inspect.signature(function, eval_str=True).parameters.values():
        if get_origin(each.annotation) is Annotated:
            kind, *metadata = get_args(each.annotation)
            (info,) = (m for m in metadata if isinstance(m, ParameterInfo))
            found.append(Parameter(each.name, info, kind, each.default))
    return found


def pages() -> dict[str, str]:
    """One page with a section for each command."""
    found = list(commands())
    index = [(f"[`atlas {name}`](#atlas-{name.replace(' ', '-')})", cell(_first(function))) for name, function in found]
    head = [
        "# Commands\n",
        NOTE,
        "`atlas COMMAND --help` says the same in a terminal. FILE is a config, or the name of an example",
        "(`atlas init --list`). `--debug` shows the traceback of an error and may stand anywhere.\n",
        table(("command", "what it does"), index),
        "## Exit codes\n",
        table(("code", "meaning"), EXIT_CODES),
    ]
    return {"commands.md": "\n".join(head) + "\n" + "\n".join(_section(*each) for each in found)}


def _paragraphs(function: Callable[..., Any]) -> list[str]:
    return [inline(part) for part in (inspect.getdoc(function) or "").split("\n\n")]


def _first(function: Callable[..., Any]) -> str:
    return _paragraphs(function)[0].split(". ")[0].rstrip(".") + "."


def _section(name: str, function: Callable[..., Any]) -> str:
    given = parameters(function)
    places = [_place(each) for each in given if each.argument]
    options = ["[OPTIONS]"] if any(not each.argument for each in given) else []
    usage = " ".join(["atlas", name, *options, *places])
    rows = [(_name(each), _default(each), cell(each.info.help or "")) for each in given]
    parts = [f"## atlas {name}\n", f"```text\n{usage}\n```\n", *(f"{part}\n" for part in _paragraphs(function))]
    return "\n".join([*parts, table(("argument or option", "default", "meaning"), rows) if rows else ""])


def _place(each: Parameter) -> str:
    text = each.info.metavar or each.name.upper()
    return text if each.required or text.startswith("[") else f"[{text}]"


def _name(each: Parameter) -> str:
    if each.argument:
        return f"`{re.sub(r'[][]', '', each.info.metavar or each.name.upper()).replace('|', ' or ')}`"
    written = ", ".join(f"`{option}`" for option in each.options)
    value = _value(each)
    return f"{written} {value}" if value else written


def _value(each: Parameter) -> str:
    kinds = [kind for kind in (get_args(each.type) or (each.type,)) if kind is not type(None)]
    if get_origin(each.type) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(each.type))
    if get_origin(kinds[0]) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kinds[0]))
    if each.info.metavar:
        return each.info.metavar.replace("|", " or ")
    return {bool: "", int: "NUMBER", float: "NUMBER"}.get(kinds[0], "TEXT")


def _default(each: Parameter) -> str:
    if each.required:
        return "required"
    return "" if each.default in (None, False) else f"`{each.default}`"
