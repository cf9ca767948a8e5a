"""``training.rounds=3`` on the command line: changes to the raw data before the schema sees it.

Values are strict YAML (``lora.targets=[q_proj, v_proj]``, ``clients.laptop.rank={0: 8}``) and replace what the file
says, whole sections included. The longest key that exists is followed, so that client names may hold dots.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from atlas_cli.config import strict_yaml
from atlas_cli.config.schema_types import taken
from atlas_cli.config.strict_yaml import MAX_DEPTH, KeyPath, dotted
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

COMMAND_LINE = "command line"
_NAMED_BY_USER = {("clients",), ("task_groups",)}


def apply_overrides(data: dict[Any, Any], overrides: Sequence[str]) -> list[KeyPath]:
    """Write ``key=value`` overrides into ``data``, in order; returns the paths that were set, parts of values included.

    Raises:
        ConfigError: not ``key=value``, a value that is not YAML, or a key below something that is no mapping; ``where``
            is "command line". Keys that the schema does not know are left for the schema to refuse.
    """
    paths: list[KeyPath] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(
                f"{override!r} is not an override; write key=value, e.g. training.rounds=3", where=COMMAND_LINE
            )
        try:
            value = strict_yaml.parse(text, COMMAND_LINE, partial(_taken, tuple(key.split("."))))
        except ConfigError as error:
            raise ConfigError(error.message, key=key, where=COMMAND_LINE) from None
        path = _assign(data, key.split("."), value.data)
        paths += [path, *((*path, *below) for below in value.lines)]
    return paths


def _taken(above: KeyPath, path: KeyPath, of_keys: bool) -> Collection[type]:
    return taken((*above, *path), of_keys)


def _assign(data: dict[Any, Any], parts: list[str], value: Any) -> KeyPath:
    target: Any = data
    path: KeyPath = ()
    while True:
        key, used = _longest(target, parts)
        last = used == len(parts)
        missing = isinstance(target, dict) and key not in target
        if missing and not last and path in _NAMED_BY_USER:
            name, where = dotted((*path, key)), f"{dotted(path)}.NAME={{...}}"
            hint = did_you_mean(str(key), map(str, target)) if target else ""
            raise ConfigError(f"is not in the config{hint} (to add one: {where})", key=name, where=COMMAND_LINE)
        path = (*path, key)
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"nested more than {MAX_DEPTH} deep", key=dotted(path[:3]), where=COMMAND_LINE)
        if last:
            target[key] = value
            return path
        if missing or target[key] is None:
            target[key] = {}
        target, parts = target[key], parts[used:]
        inside = isinstance(target, dict) or (
            isinstance(target, list) and parts[0].isdecimal() and int(parts[0]) < len(target)
        )
        if not inside:
            raise ConfigError(
                f"has no key {parts[0]}; set it as a whole: {dotted(path)}=...", key=dotted(path), where=COMMAND_LINE
            )


def _longest(target: dict[Any, Any] | list[Any], parts: list[str]) -> tuple[str | int, int]:
    """The existing key that the most parts spell, and how many they are; a new key is one part."""
    if isinstance(target, dict):
        keys = {str(key): key for key in target}
        longest = max((key.count(".") + 1 for key in keys), default=1)
        for used in range(min(len(parts), longest), 0, -1):
            if (name := ".".join(parts[:used])) in keys:
                return keys[name], used
    return int(parts[0]) if parts[0].isdecimal() and len(parts[0]) < 10 else parts[0], 1
