"""The example configs that come with atlas, which commands take by name: ``atlas train quickstart``.

In a checkout they are the folder ``configs``; a wheel has them beside the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from atlas_cli.errors import ConfigError
from atlas_cli.package_folder import PACKAGE_FOLDER
from atlas_cli.suggest import did_you_mean


class Example(NamedTuple):
    """A config that comes with atlas.

    Attributes:
        path: its file; small data that it reads lies in the folder ``data`` beside it.
        says: the first paragraph of its header, on one line.
    """

    name: str
    path: Path
    says: str


def folder() -> Path:
    """The folder of the example configs."""
    packaged = PACKAGE_FOLDER / "examples"
    return packaged if packaged.is_dir() else PACKAGE_FOLDER.parent / "configs"


def examples() -> dict[str, Example]:
    """All examples by name, sorted."""
    return {path.stem: Example(path.stem, path, _says(path)) for path in sorted(folder().glob("*.yaml"))}


def example(name: str, *, key: str | None = None) -> Example:
    """One example by name.

    Raises:
        ConfigError: no such example; suggests the nearest.
    """
    known = examples()
    if name not in known:
        raise ConfigError(f"there is no example {name!r}{did_you_mean(name, known)}", key=key)
    return known[name]


def config_file(given: Path) -> tuple[Path, str | None]:
    """The file that is meant where a command takes a config, and a note where that is not the path itself.

    A bare name (no folder, no suffix) stands for the file of that name, else for that file with ``.yaml``, else for
    the example of that name.
    """
    if given.exists() or given.suffix or given.name != str(given) or given.name not in (known := examples()):
        return given, None
    beside = given.with_suffix(".yaml")
    if beside.is_file():
        return beside, f"{given} is {beside} here, not the example of that name"
    return known[given.name].path, f"{given} is the example {known[given.name].path} (atlas init --example copies it)"


def _says(path: Path) -> str:
    return " ".join(_first_comment(path.read_text(encoding="utf-8")))


def _first_comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not (found := re.fullmatch(r"# (.+)", line)):
            return
        yield found[1]
