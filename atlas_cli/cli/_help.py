"""How ``--help`` looks: commands and options in sections, and examples a line each, to copy."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

EXAMPLES_HEADING = "Examples"


class Command(TyperCommand):
    """A command whose options stand in sections (``rich_help_panel``) and whose epilog is a list of examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the options of each section, those without one last."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        plain: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
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
