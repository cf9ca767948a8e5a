"""The config of a candidate, as text: that of the file with the settings that differ, its comments kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from atlas_cli.config.dump import dump_config
from atlas_cli.config.edit import edited
from atlas_cli.config.load import config_of_text
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.section import Section
from atlas_cli.errors import ConfigError


def with_settings(config: ExperimentConfig, settings: Mapping[tuple[str, ...], Any]) -> ExperimentConfig:
    """The config with values by path of keys."""
    for path, value in settings.items():
        config = _with(config, path, value)
    return config


def written(
    source: str, config: ExperimentConfig, settings: Mapping[tuple[str, ...], Any], target: Path
) -> tuple[str, bool]:
    """The text of a config with other settings, and whether it is the source's own with its comments.

    It is not where the config has more than the source says, such as overrides or files that are looked for beside it
    and would not be found beside ``target``: then all keys are written out.

    Raises:
        ConfigError: the settings contradict others; names the key.
    """
    wanted = with_settings(config, settings)
    text = edited(source, settings)
    try:
        if config_of_text(text, target).config == wanted:
            return text, True
    except ConfigError:  # with the overrides it may be right
        pass
    text = dump_config(wanted)
    config_of_text(text, target)
    return text, False


def _with(section: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *below = path
    if isinstance(section, dict):
        return {**section, name: _with(section[name], tuple(below), value)}
    assert isinstance(section, Section)
    if below:
        value = _with(getattr(section, name), tuple(below), value)
    elif isinstance(value, dict):  # a section, as YAML has it
        known: Any = type(section).model_fields[name].annotation
        value = TypeAdapter(known).validate_python(value)
    return section.model_copy(update={name: value})
