"""The file that ``atlas audit --frontier`` reads: which defences, at which strengths, are held against which attacks.

config: privacy-activations          a config beside this file, or the name of an example
changes: {privacy.activations: null} to every run, so that what is left has no defence
seeds: [0, 1, 2]
attacks: [nearest-embedding, ridge-inverter]
examples: 128                        texts that an attack looks at (256 where it is left out)
defences:                            by defence and strength, what is changed
  noise: {multiplier 0.1: {privacy.activations: {clip: 8, noise_multiplier: 0.1}}}
controls:                            the same of what is no defence, such as codecs
  top-k: {a tenth: {wire.activations: {codec: top-k}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_cli import discovery
from atlas_cli.config import strict_yaml
from atlas_cli.config.dump import one_line
from atlas_cli.config.examples import examples, folder
from atlas_cli.config.grid import Combination
from atlas_cli.config.load import LoadedConfig, load_config
from atlas_cli.config.overrides import COMMAND_LINE
from atlas_cli.config.strict_yaml import KeyPath, dotted
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

LEAST_EXAMPLES, EXAMPLES = 20, 256
REQUIRED = ("config", "seeds", "attacks", "defences")
OTHERS = ("changes", "examples", "controls")


@dataclass(frozen=True)
class Setting:
    """A defence at one strength, with what it changes; both names are empty where there is none.

    ``control``: it is no defence, and is there for comparison. ``place``: its path of keys in the file.
    """

    defence: str
    strength: str
    changes: tuple[str, ...] = ()
    control: bool = False
    place: KeyPath = ()

    @property
    def label(self) -> str:
        """Both names."""
        return f"{self.defence}, {self.strength}" if self.defence else "no defence"


@dataclass(frozen=True)
class Planned:
    """A run of a setting: what it changes, and the config that this comes to."""

    setting: Setting
    seed: int
    combination: Combination
    loaded: LoadedConfig


@dataclass(frozen=True)
class Frontier:
    """What a file asks for.

    Attributes:
        config: the file that all runs change.
        settings: without any defence first; then in the order of the file, controls last.
        examples: the number of texts that an attack looks at.
        planned: all settings of the first seed, then of the next: all are there with one seed, whenever it is stopped.
    """

    config: Path
    settings: Sequence[Setting]
    seeds: Sequence[int]
    attacks: Sequence[str]
    examples: int
    planned: Sequence[Planned]


def load_frontier(path: Path, overrides: Sequence[str] = ()) -> Frontier:
    """Read and check a file, and the config of every run that it asks for.

    Args:
        path: the file, or the name of one that comes with atlas.
        overrides: ``key=value`` changes to every run, after those of the file.

    Raises:
        ConfigError: with file, line and key of the first problem; or two settings are the same config.
    """
    if not path.exists() and (shipped := folder() / "frontiers" / f"{path}.yaml").is_file():
        path = shipped
    read = _Reader(path, strict_yaml.load_file(path))
    name = read.text("config")
    config = path.parent / name
    if not config.is_file() and (example := examples().get(name)) is not None:
        config = example.path
    if not config.is_file():
        raise read.error(("config",), f"there is no {config}; name a config beside this file, or an example")
    seeds = read.whole_numbers("seeds")
    attacks = read.attacks()
    texts = read.examples()
    load_config(config, overrides)  # what is wrong with these is not of the file
    shared = read.changes(("changes",)) if "changes" in read.data else []
    settings = [Setting("", ""), *read.settings("defences"), *read.settings("controls")]
    planned, first = [], dict[str, Setting]()
    for seed in seeds:
        for setting in settings:
            plan = _planned(read, config, setting, seed, (*shared, *setting.changes, *overrides))
            same = first.setdefault(plan.loaded.config.model_dump_json(), setting)
            if same is not setting:
                raise read.error(setting.place, f"is the same config as {same.label}; change it, or leave it out")
            planned.append(plan)
    return Frontier(config, settings, seeds, attacks, texts, planned)


def _planned(read: _Reader, config: Path, setting: Setting, seed: int, changes: tuple[str, ...]) -> Planned:
    """Its messages of the last round are recorded: those of a trained model, under the defence."""
    values = {"defence": setting.defence, "strength": setting.strength} if setting.defence else {}
    overrides = (*changes, f"seed={seed}")
    try:
        rounds = load_config(config, overrides).config.training.rounds
        overrides = (*overrides, f"audit.record.rounds=[{rounds}]")
        loaded = load_config(config, overrides)
    except ConfigError as error:
        raise ConfigError("\n".join(read.located(line, setting.place) for line in str(error).split("\n"))) from None
    return Planned(setting, seed, Combination(overrides, {**values, "seed": str(seed)}), loaded)


class _Reader:
    """The values of a file, each checked where it is read."""

    def __init__(self, path: Path, document: strict_yaml.Document) -> None:
        self.path = path
        self.data: Mapping[Any, Any] = document.data
        self.lines = document.lines
        known = (*REQUIRED, *OTHERS)
        for key in self.data:
            if key not in known:
                raise self.error((key,), f"is not a known key{did_you_mean(str(key), known)} ({', '.join(known)})")
        for key in REQUIRED:
            if key not in self.data:
                raise ConfigError("is missing; docs/concepts/privacy.md has an example", key=key, where=str(path))

    def where(self, place: KeyPath) -> str:
        """``file:line`` of a key."""
        return f"{self.path}:{self.lines[place]}" if place in self.lines else str(self.path)

    def error(self, place: KeyPath, message: str) -> ConfigError:
        """What is wrong with a key."""
        return ConfigError(message, key=dotted(place), where=self.where(place))

    def located(self, line: str, place: KeyPath) -> str:
        """A line of an error, where this file has the key that it is about: what it changes came as an override."""
        about = line.removeprefix(f"{COMMAND_LINE}: ")
        for section in (place, ("changes",)):
            for key in self.lines:
                if key[:-1] == section and about.startswith(str(key[-1])):
                    return f"{self.where(key)}: {about}"
        return line if about == line else f"{self.where(place)}: {about}"

    def text(self, key: str) -> str:
        """A text that is not empty."""
        if not isinstance(found := self.data[key], str) or not found:
            raise self.error((key,), f"expected the name of a config, got {found!r}")
        return found

    def whole_numbers(self, key: str) -> list[int]:
        """Different whole numbers from 0 on, at least one."""
        found = self._list(key, "[0, 1, 2]")
        for place, value in enumerate(found):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise self.error((key, place), f"expected a whole number from 0 on, got {value!r}")
            if value in found[:place]:
                raise self.error((key, place), f"{value} is given twice; leave one out")
        return found

    def attacks(self) -> list[str]:
        """Names of different attacks that there are, at least one."""
        found = self._list("attacks", "[nearest-embedding, ridge-inverter]")
        for place, name in enumerate(found):
            try:
                discovery.find("audit.attacks", str(name))
            except ConfigError as error:
                raise self.error(("attacks", place), error.message) from None
            if name in found[:place]:
                raise self.error(("attacks", place), f"{name} is given twice; leave one out")
        return found

    def examples(self) -> int:
        """How many texts an attack looks at."""
        found = self.data.get("examples", EXAMPLES)
        if isinstance(found, bool) or not isinstance(found, int) or found < LEAST_EXAMPLES:
            raise self.error(("examples",), f"expected a whole number from {LEAST_EXAMPLES} on, got {found!r}")
        return found

    def settings(self, section: str) -> Iterator[Setting]:
        """Those of ``defences`` or ``controls``."""
        if section not in self.data:
            return
        control = section == "controls"
        for name in self._mapping((section,), "names with their strengths"):
            written = set[str]()
            for strength in self._mapping((section, name), "strengths with what they change"):
                place = (section, name, strength)
                if str(strength) in written:
                    raise self.error(place, f"{strength} is given twice, as a number and as a text; rename one of them")
                written.add(str(strength))
                changes = self.changes(place)
                self._require_kind(place, control)
                yield Setting(str(name), str(strength), tuple(changes), control, place)

    def changes(self, place: KeyPath) -> list[str]:
        """A mapping of dotted keys of the config to values, as overrides."""
        return [f"{key}={one_line(value)}" for key, value in self._mapping(place, "keys of the config").items()]

    def _require_kind(self, place: KeyPath, control: bool) -> None:
        """A codec is no defence, whatever it is called, and a mechanism is no control."""
        keys = [str(key) for key in self._mapping(place, "keys of the config")]
        if control and any(_within(key, "privacy") for key in keys):
            raise self.error(place, "changes privacy, so it is no control; put it under defences")
        if not control and all(_within(key, "wire") for key in keys):
            raise self.error(place, "changes wire alone, and a codec is no defence; put it under controls")

    def _mapping(self, place: KeyPath, of_what: str) -> Mapping[Any, Any]:
        found: Any = self.data
        for part in place:
            found = found[part]
        if not isinstance(found, dict) or not found:
            raise self.error(place, f"expected a mapping of {of_what}, got {found!r}")
        return found

    def _list(self, key: str, example: str) -> list[Any]:
        found = self.data[key]
        if not isinstance(found, list) or not found:
            raise self.error((key,), f"expected a list with an entry or more, e.g. {example}, got {found!r}")
        return found


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
