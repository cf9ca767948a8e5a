"""Makes relative paths of data, adapters, traces and models absolute, starting from the config's folder.

A path in a config file is looked for beside that file, then in the working directory, and a note says where the latter
was taken; one given on the command line in the working directory alone. A path that exists nowhere stays as it is;
reading it later raises the error. A model or tokenizer is taken for a path only where its name has a folder in it
(``models/mine``, ``./mine``) and is beside the config.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.strict_yaml import KeyPath

_PATHS = ("files", "test_files", "validation_files", "glue")
_ESCAPED = re.compile(r"[A-Za-z]:([\x00-\x1f])")


def path_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Windows paths whose first ``\\`` began an escape, as that of ``"C:\\runs"`` in double quotes does."""
    paths: dict[KeyPath, str | list[str] | None] = {("output", "dir"): config.output.dir}
    for name, group in config.task_groups.items():
        paths |= {("task_groups", name, "data", field): getattr(group.data, field, None) for field in _PATHS}
        paths["task_groups", name, "adapter"] = group.adapter
    paths |= {("model", key): getattr(config.model, key) for key in ("name", "tokenizer")}
    for path, value in paths.items():
        for each in [value] if isinstance(value, str) else value or []:
            if found := _ESCAPED.match(each):
                escape = found[1].encode("unicode_escape").decode("ascii")
                text = f"{each!r} holds a control character, {escape}; write a path with / or without double quotes"
                yield Problem(path, text)


def with_absolute_paths(
    config: ExperimentConfig, folder: Path, is_override: Callable[[str], bool]
) -> tuple[ExperimentConfig, list[str]]:
    """The config with absolute paths of its data, adapters, traces and models, and notes where that might be another.

    Args:
        folder: of the config file.
        is_override: whether a dotted key was set on the command line.
    """
    notes: list[str] = []

    def absolute(value: str, key: str) -> str:
        places = [Path.cwd()] if is_override(key) else [folder.absolute(), Path.cwd()]
        found, note = _found(value, places)
        if note:
            notes.append(f"{key}: {note}")
        return found

    def each(value: str | list[str], key: str) -> str | list[str]:
        return absolute(value, key) if isinstance(value, str) else [absolute(item, key) for item in value]

    groups = {}
    for name, group in config.task_groups.items():
        key = f"task_groups.{name}"
        paths = {field: getattr(group.data, field, None) for field in _PATHS}
        data = {field: each(value, f"{key}.data.{field}") for field, value in paths.items() if value is not None}
        adapter = None if group.adapter is None else absolute(group.adapter, f"{key}.adapter")
        groups[name] = group.model_copy(update={"data": group.data.model_copy(update=data), "adapter": adapter})
    devices = {}
    for name, device in config.devices.items():
        traces = {
            figure: each.model_copy(update={"trace": absolute(each.trace, f"devices.{name}.{figure}.trace")})
            for figure, each in device.traces.items()
        }
        devices[name] = device.model_copy(update=traces) if traces else device
    names = {key: getattr(config.model, key) for key in ("name", "tokenizer")}
    beside = {
        key: absolute(name, f"model.{key}")
        for key, name in names.items()
        if name is not None and _is_beside(name, folder)
    }
    model = config.model.model_copy(update=beside) if beside else config.model
    return config.model_copy(update={"task_groups": groups, "devices": devices, "model": model}), notes


def _is_beside(name: str, folder: Path) -> bool:
    """Whether a name that may also be one of the hub is a path beside the config; as it is, it is found from here."""
    try:
        beside = folder / name
        return (
            ("/" in name or os.sep in name) and beside.exists() and not (os.path.exists(name) and beside.samefile(name))
        )
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _found(value: str, places: list[Path]) -> tuple[str, str | None]:
    """A path in the first place that has it, and a note where another place has another one."""
    try:
        if os.path.isabs(os.path.expanduser(value)):
            return value, None
        having = [(place, names) for place in places if (names := set(_matches(value, place)))]
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return value, None
    if not having:
        return value, None
    (first, names), others = having[0], having[1:]
    is_pattern = not (first / value).exists()
    taken = os.path.normpath(os.path.join(glob.escape(str(first)) if is_pattern else first, value))
    other = next((place for place, there in others if there != names), None)
    if first is not places[0]:
        return taken, f"{value} is not beside the config; that of the working directory is used, {taken}"
    if other is None:
        return taken, None
    note = f"{value} is in {first} and in {other}; the first is used, beside the config (or give a full path)"
    return taken, note


def _matches(value: str, place: Path) -> Iterator[str]:
    """The real paths of what a path or pattern names in a folder."""
    if value.strip() and (place / value).exists():
        yield os.path.realpath(place / value)
    elif glob.has_magic(value):
        yield from (os.path.realpath(place / name) for name in glob.iglob(value, root_dir=place, recursive=True))
