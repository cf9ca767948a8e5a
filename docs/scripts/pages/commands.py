"""The commands, from the functions behind them: what ``atlas COMMAND --help`` says, on one page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from typer.models import ArgumentInfo, ParameterInfo

from atlas_cli import discovery
from pages.prose import NOTE, cell, inline, table

SECTIONS = ("Run", "Plan and check", "Look at results", "Use a trained model", "Set up", "")  # in the order of the help
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


class Command(NamedTuple):
    """A command: its name (those of a group as ``config show``), function, section of the help, and examples."""

    name: str
    function: Callable[..., Any]
    section: str
    examples: tuple[str, ...]


def commands() -> Iterator[Command]:
    """All commands, by name."""
    for name in discovery.own_names("cli"):
        module = discovery.load("cli", name)
        section, examples = getattr(module, "SECTION", ""), getattr(module, "EXAMPLES", ())
        if hasattr(module, "app"):
            for each in module.app.registered_commands:
                below = f"{name} {each.name or each.callback.__name__}"
                own = tuple(line for line in examples if line.startswith(f"atlas {below}"))
                yield Command(below, each.callback, section, own)
        else:
            yield Command(name, module.command, section, examples)


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
    index = [
        (each.section, f"[`atlas {each.name}`](#atlas-{each.name.replace(' ', '-')})", cell(_first(each.function)))
        for each in sorted(found, key=lambda each: (SECTIONS.index(each.section), each.name))
    ]
    head = [
        "# Commands\n",
        NOTE,
        "`atlas COMMAND --help` says the same in a terminal. FILE is a config, or the name of an example",
        "(`atlas init --list`). Two options may stand anywhere: `--debug` shows the traceback of an error, `--quiet`",
        "errors and what `--json` prints, alone. [JSON output](json-output.md) says what that is.\n",
        table(("for", "command", "what it does"), index),
        "## Exit codes\n",
        table(("code", "meaning"), EXIT_CODES),
    ]
    return {"commands.md": "\n".join(head) + "\n" + "\n".join(map(_section, found))}


def _paragraphs(function: Callable[..., Any]) -> list[str]:
    return [inline(part) for part in (inspect.getdoc(function) or "").split("\n\n")]


def _first(function: Callable[..., Any]) -> str:
    return _paragraphs(function)[0].split(". ")[0].rstrip(".") + "."


def _section(command: Command) -> str:
    name, function = command.name, command.function
    given = parameters(function)
    places = [_place(each) for each in given if each.argument]
    options = ["[OPTIONS]"] if any(not each.argument for each in given) else []
    usage = " ".join(["atlas", name, *options, *places])
    rows = [(_name(each), _default(each), cell(each.info.help or "")) for each in given]
    parts = [f"## atlas {name}\n", f"```text\n{usage}\n```\n", *(f"{part}\n" for part in _paragraphs(function))]
    if command.examples:
        parts.append("```bash\n" + "\n".join(command.examples) + "\n```\n")
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
