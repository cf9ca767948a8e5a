"""Writes a config as YAML that loads to an equal config, for run directories and ``atlas config show``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from atlas_cli.config import strict_yaml
from atlas_cli.config.load import LoadedConfig
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.strict_yaml import KeyPath, dotted
from atlas_cli.config.yaml_scalars import RESOLVERS


def dump_config(config: ExperimentConfig) -> str:
    """All keys with their values, including defaults; keys without a value (null by default) are left out."""
    return _dump(_plain(config))


def show_config(loaded: LoadedConfig) -> str:
    """``dump_config`` with a comment behind every value that is not the default: its file and line, or "override"."""
    text = dump_config(loaded.config)
    key_lines = strict_yaml.parse(text, "resolved config").lines
    lines = text.splitlines()
    for path in _changed(loaded.config, ()):
        place = loaded.origins.get(dotted(path)) or loaded.where(dotted(path))
        lines[key_lines[path] - 1] += f"  # {place}"
    return "\n".join(lines) + "\n"


def scalar(value: str) -> str:
    """Text as YAML: quoted where it would otherwise be read as something else."""
    return _dump([value])[1:-2]


def one_line(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.dump({"k": value}, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=2**31)
    return text.strip().removeprefix("{k: ").removesuffix("}")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = ((name, field, getattr(value, name)) for name, field in type(value).model_fields.items())
        return {name: _plain(v) for name, field, v in fields if not (v is None and field.get_default() is None)}
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _changed(model: BaseModel, path: KeyPath) -> Iterator[KeyPath]:
    """Paths of the values that are not the default, down to the last section."""
    for name, field in type(model).model_fields.items():
        value, here = getattr(model, name), (*path, name)
        if isinstance(value, BaseModel):
            yield from _changed(value, here)
        elif isinstance(value, dict) and all(isinstance(v, BaseModel) for v in value.values()) and value:
            for key, section in value.items():
                yield from _changed(section, (*here, key))
        elif field.is_required() or value != field.get_default():
            yield here


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our loader would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.Node:
    one_line = value.isprintable()  # a comment can follow any value only if no value spans lines
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if one_line else '"')


def _list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    simple = not any(isinstance(v, list | dict) for v in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=simple)


for _tag, _pattern, _first in RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def _dump(data: Any) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
