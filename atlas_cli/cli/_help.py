"""How commands are parsed and how ``--help`` looks: commands and options in sections, and examples to copy."""

from __future__ import annotations

import re
from typing import Any, get_args

from typer.core import TyperCommand, TyperGroup

from atlas_cli.cli._usage import expected, kind_of, no_such_command, usage_errors

EXAMPLES_HEADING = "Examples"


class Command(TyperCommand):
    """A command whose options stand in sections (``rich_help_panel``) and whose epilog is a list of examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with errors in the form of all others."""
        with usage_errors(ctx, args):
            return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``FILE``, where Typer writes ``{FILE}``."""
        return [piece if "|" in piece else piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the options of each section, those without one last."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        plain: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = _record(parameter, ctx)
            if record is None:
                continue
            name = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                sections["Arguments"].append(record)
            elif name is None:
                plain.append(record)
            else:
                sections.setdefault(name, []).append(record)
        _write({**sections, "Options": plain}, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples as they are typed: never wrapped."""
        if self.epilog:
            with formatter.section(EXAMPLES_HEADING):
                formatter.write("".join(f"  {line}\n" for line in self.epilog.splitlines()))


class Group(TyperGroup):
    """The commands in sections, each with its whole first sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with errors in the form of all others."""
        with usage_errors(ctx, args):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        if args and self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise no_such_command(ctx, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each ``rich_help_panel``, in the order of the first command of each."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                section = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(section, []).append((name, command.get_short_help_str(1000)))
        _write(sections, formatter)


def _write(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for name, rows in sections.items():
        if rows:
            with formatter.section(name):
                formatter.write_dl(rows)


def _record(parameter: Any, ctx: Any) -> tuple[str, str] | None:
    """An option's or argument's name and help, with what it takes in words and not in Typer's ``<int range>``."""
    record = parameter.get_help_record(ctx)
    if record is None:
        return None
    (name, text), kind = record, kind_of(parameter)
    bare = re.sub(r" <.*>$", "", name)
    if name != bare and parameter.param_type_name == "option":
        choices = () if isinstance(kind, type) else get_args(kind)
        bare += " " + ("|".join(map(str, choices)) or {int: "N", float: "X"}.get(kind, "TEXT"))
    return bare, re.sub(r"[^\[; ]*\bx[<>]=?[^;\]]*(?=[;\]])", expected(parameter) or "", text)
