"""``seed=0,1,2 aggregation.method=delta-svd,fedex``: overrides whose values are lists span a grid of configs.

A comma outside of brackets, braces and quotes separates values: ``lora.targets=[q_proj, v_proj]`` is one value and
``lora.targets=[q_proj],[v_proj]`` two.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_cli.config.load import LoadedConfig, load_config
from atlas_cli.config.overrides import COMMAND_LINE
from atlas_cli.errors import ConfigError
from atlas_cli.printable import listed


@dataclass(frozen=True)
class Combination:
    """One point of a grid.

    Attributes:
        overrides: ``key=value``, those that all points share too, in the order of the command line.
        values: the text of the point's value on every axis, by key; the last axis changes fastest.
    """

    overrides: tuple[str, ...]
    values: Mapping[str, str]

    @property
    def label(self) -> str:
        """``seed=0 aggregation.method=fedex``; empty where there are no axes."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


def expand(arguments: Sequence[str]) -> list[Combination]:
    """All combinations of the values in ``key=a,b,c`` arguments; one where no argument has several.

    Raises:
        ConfigError: an empty value, a value given twice, or an axis whose key is given twice.
    """
    choices = [_choices(argument) for argument in arguments]
    keys = [key for key, _ in choices]
    for key, values in choices:
        if len(values) == 1:
            continue
        if keys.count(key) > 1:
            raise _error(f"is given twice; write one {key}=... with all its values", key)
        if "" in values:
            raise _error("has an empty value between its commas; write null where that is meant", key)
        if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
            raise _error(f"has {repeated[0]} twice; leave one out", key)
    return [
        Combination(
            tuple(
                argument if len(values) == 1 else f"{key}={text}"
                for argument, (key, values), text in zip(arguments, choices, point, strict=True)
            ),
            {key: text for (key, values), text in zip(choices, point, strict=True) if len(values) > 1},
        )
        for point in itertools.product(*(values for _, values in choices))
    ]


def load_grid(path: Path | str, combinations: Sequence[Combination]) -> list[LoadedConfig]:
    """Read and check the config of every combination, before anything runs.

    Raises:
        ConfigError: one line for every problem, each once, with the first combination that has it unless all do; or two
        combinations give the same config.
    """
    loaded: list[LoadedConfig] = []
    wrong: dict[str, list[Combination]] = {}
    for combination in combinations:
        try:
            loaded.append(load_config(path, combination.overrides))
        except ConfigError as error:
            for line in str(error).split("\n"):
                wrong.setdefault(line, []).append(combination)
    if wrong:
        raise ConfigError("\n".join(line + _among(having, len(combinations)) for line, having in wrong.items()))
    first: dict[str, Combination] = {}
    for each, combination in zip(loaded, combinations, strict=True):
        same = first.setdefault(each.config.model_dump_json(), combination)
        if same is not combination:
            raise ConfigError(f"{same.label} and {combination.label} are the same config; leave one out")
    return loaded


def split_values(text: str) -> list[str]:
    """The values between top-level commas, without the space around them.

    A quote opens where YAML lets a quoted text begin, so that the one in ``it's`` is a letter.
    """
    values, begin, depth, quote, last, at = [], 0, 0, "", ",", 0
    while at < len(text):
        char = text[at]
        if quote:
            escaped = char == "\\" if quote == '"' else text.startswith("''", at)
            if escaped:
                at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"" and last in ",[{:":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth = max(depth - 1, 0)
        elif char == "," and not depth:
            values.append(text[begin:at].strip())
            begin = at + 1
        if not char.isspace():
            last = char
        at += 1
    return [*values, text[begin:].strip()]


def _choices(argument: str) -> tuple[str, list[str]]:
    key, _, text = argument.partition("=")  # what is no override at all is refused with the config
    return key.strip(), split_values(text)


def _among(having: Sequence[Combination], total: int) -> str:
    return "" if len(having) == total else f" (with {listed((each.label for each in having), 1)})"


def _error(message: str, key: str) -> ConfigError:
    return ConfigError(message, key=key, where=COMMAND_LINE)
