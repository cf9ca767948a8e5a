"""What the command line says of options and arguments that it cannot take, in the form of all other errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import typer

from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

_UsageError: Any = typer.BadParameter.__base__
_ONLY_SHOWS_HELP = "NoArgsIsHelpError"


@contextmanager
def usage_errors(ctx: Any, args: Sequence[str]) -> Iterator[None]:
    """Turn the parser's own errors into ``atlas train: no such option --foo; ...``.

    Args:
        ctx: of the command whose arguments are parsed.
        args: as they were typed after the command.
    """
    typed = list(args)
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == _ONLY_SHOWS_HELP:
            raise
        raise ConfigError(
            f"{_what(error, ctx, typed)}; see {ctx.command_path} --help", where=ctx.command_path
        ) from None


def no_such_command(ctx: Any, name: str, commands: Sequence[str]) -> ConfigError:
    """The error of a word that is no command."""
    hint = _near(name, commands)
    return ConfigError(f"no such command {name}{hint}; see {ctx.command_path} --help", where=ctx.command_path)


def kind_of(parameter: Any) -> Any:
    """The type that an option's or argument's value gets."""
    return getattr(getattr(parameter, "type_descriptor", None), "annotation", str)


def expected(parameter: Any) -> str | None:
    """What an option or argument takes, in words: ``a whole number from 1``; None where it takes any text."""
    kind = kind_of(parameter)
    if choices := get_args(kind) if not isinstance(kind, type) else ():
        return f"one of {', '.join(map(str, choices))}"
    if kind not in (int, float):
        return None
    least, most = parameter.min, parameter.max
    words = "a whole number" if kind is int else "a number"
    if least is not None:
        words += f" from {least}"
    return words if most is None else f"{words} to {most}" if least is not None else f"{words} up to {most}"


def _what(error: Any, ctx: Any, typed: list[str]) -> str:
    kind, parameter = type(error).__name__, getattr(error, "param", None)
    if kind == "NoSuchOption":
        options = [name for each in ctx.command.get_params(ctx) for name in each.opts if name.startswith("-")]
        hint = _near(error.option_name, options)
        if not hint and any(each.name == "overrides" for each in ctx.command.params):
            hint = "; a key of the config is set without --, as in training.rounds=3"
        return f"no such option {error.option_name}{hint}"
    if kind == "MissingParameter" and parameter is not None:
        return f"{parameter.metavar or parameter.opts[0]} is missing"
    if parameter is not None and (words := expected(parameter)):
        value = _value(parameter, typed)
        return f"{parameter.opts[0]}: expected {words}" + ("" if value is None else f", got {value}")
    text: str = error.format_message().rstrip(".").replace("'", "").replace("argument(s)", "argument")
    return text[:1].lower() + text[1:]


def _near(word: str, known: Sequence[str]) -> str:
    hint = did_you_mean(word, known)
    return hint.rstrip("?").replace("; ", ", ", 1) if hint.endswith("?") else ""


def _value(parameter: Any, typed: list[str]) -> str | None:
    """What was typed for an option."""
    for option in parameter.opts:
        for place, word in enumerate(typed):
            if word == option and place + 1 < len(typed):
                return typed[place + 1]
            if word.startswith(f"{option}="):
                return word.partition("=")[2]
    return None
