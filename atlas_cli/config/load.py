"""Loads an ExperimentConfig from a YAML file and overrides, with the place of every key for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atlas_cli import discovery
from atlas_cli.config import strict_yaml
from atlas_cli.config.checks import cross_check
from atlas_cli.config.data_paths import with_absolute_paths
from atlas_cli.config.examples import config_file
from atlas_cli.config.overrides import COMMAND_LINE, apply_overrides
from atlas_cli.config.problems import Problem, from_validation
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema_types import taken
from atlas_cli.config.strict_yaml import KeyPath, dotted
from atlas_cli.cycle_collection import without_collection
from atlas_cli.errors import ConfigError
from atlas_cli.notes import say
from atlas_cli.printable import printable

OVERRIDE = "override"
MAX_SHOWN = 20


@dataclass(frozen=True)
class _Places:
    """Where keys were set: a file with the lines of its keys, and the keys that overrides set."""

    path: Path
    lines: Mapping[KeyPath, int]
    overridden: Sequence[KeyPath]

    @cached_property
    def origins(self) -> dict[str, str]:
        """By dotted key; made when one is asked for, since a config of many clients has hundreds of thousands."""
        return _origins(self.path, self.lines, self.overridden)

    def where(self, key: str, beside: str | None = None) -> str:
        known = _nearest(self.origins, key) or _nearest(self.origins, beside or "")
        place = self.origins[known] if known else str(self.path)
        return COMMAND_LINE if place == OVERRIDE else place

    def is_override(self, key: str) -> bool:
        return bool(self.overridden) and self.where(key) == COMMAND_LINE


@dataclass(frozen=True)
class LoadedConfig:
    """A checked config and where it comes from.

    Attributes:
        config: the experiment, frozen.
        path: the file, as it was given, or that of an example.
    """

    config: ExperimentConfig
    path: Path
    places: _Places

    @property
    def origins(self) -> Mapping[str, str]:
        """By dotted key, where it was set: ``file:line`` or "override"; only keys that were set."""
        return self.places.origins

    def where(self, key: str, beside: str | None = None) -> str:
        """``file:line`` of a dotted key or its nearest parent; "command line" where an override set it.

        Of a key that was not set, nor its section, it is that of the key ``beside``.
        """
        return self.places.where(key, beside)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, override and check a config, as far as possible without the model and the data.

    Args:
        path: the YAML file, or the name of an example that comes with atlas.
        overrides: ``key=value`` strings, values in YAML.

    Raises:
        ConfigError: one line for every problem, in the order of the file, each ``file:line: key: what is wrong``.

    Example:
        >>> load_config("offline", ["training.rounds=3"]).config.training.rounds
        3
    """
    path, meant = config_file(Path(path))
    for sentence in (*([meant] if meant else ()), *discovery.misnamed()):
        _say_once(f"note: {sentence}")
    return _loaded(strict_yaml.load_file(path, taken), path, overrides)


def config_of_text(text: str, path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config of a text that is to be written to a file, checked as ``load_config`` does."""
    return _loaded(strict_yaml.parse(text, str(path), taken), path, overrides)


@without_collection()
def _loaded(document: strict_yaml.Document, path: Path, overrides: Sequence[str]) -> LoadedConfig:
    places = _Places(path, document.lines, apply_overrides(document.data, overrides))
    try:
        config = ExperimentConfig.model_validate(document.data)
    except ValidationError as error:
        raise _combined(from_validation(error, document.data), places) from None
    if problems := cross_check(config):
        raise _combined(problems, places)
    config, notes = with_absolute_paths(config, path.parent, places.is_override)
    for note in notes:
        _say_once(f"note: {path}: {note}")
    return LoadedConfig(config, path, places)


@cache
def _say_once(text: str) -> None:
    say(printable(text))


@contextmanager
def locating(loaded: LoadedConfig) -> Iterator[None]:
    """Add the file and line of its key to a ConfigError raised inside, if it has a key and no place yet."""
    try:
        yield
    except ConfigError as error:
        for each in (error, *error.others):
            if each.key and not each.where:
                each.where = loaded.where(each.key, each.beside)
        raise


def _origins(path: Path, lines: Mapping[KeyPath, int], set_paths: Sequence[KeyPath]) -> dict[str, str]:
    replaced = set(set_paths)
    origins = {
        dotted(key): f"{path}:{line}"
        for key, line in lines.items()
        if not replaced or not any(key[:n] in replaced for n in range(1, len(key) + 1))
    }
    for key in set_paths:
        for n in range(1, len(key) + 1):
            origins.setdefault(dotted(key[:n]), OVERRIDE)
    return origins


def _nearest(origins: Mapping[str, Any], key: str) -> str | None:
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return key or None


def _combined(problems: Sequence[Problem], places: _Places) -> ConfigError:
    """One error for all problems, in the order of the file: the first as its own, the others as further lines."""
    order = {key: i for i, key in enumerate(places.origins)}
    problems = sorted(problems, key=lambda p: order.get(_nearest(places.origins, dotted(p.path)) or "", -1))
    errors = [
        ConfigError(p.message, key=None if p.whole else dotted(p.path), where=places.where(dotted(p.path)))
        for p in problems
    ]
    first, *others = errors
    if len(errors) > MAX_SHOWN:
        others[MAX_SHOWN - 1 :] = [ConfigError(f"{len(errors) - MAX_SHOWN} more", where=str(places.path))]
    return ConfigError(first.message, key=first.key, where=first.where, others=others)
