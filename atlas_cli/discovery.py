"""Plug-ins by name: files of this package, and entry points of other packages.

A file ``zero_pad.py`` in ``atlas_cli/aggregation/methods/`` is ``method: zero-pad`` in YAML. Files whose name starts
with an underscore are shared code, not plug-ins; so is ``contract.py``, which says what a plug-in of the folder must
do.

Another package names its modules as entry points, in the groups of ``GROUPS``:

    [project.entry-points."atlas.aggregation"]
    factor-median = "lab_atlas.factor_median"

Names are read from the metadata of installed packages; a module is imported when its name is asked for, and not before,
so that a broken plug-in breaks the runs that use it, and no other.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.package_folder import PACKAGE_FOLDER
from atlas_cli.printable import on_one_line
from atlas_cli.suggest import did_you_mean, one_of

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

GROUPS = {
    "aggregation.methods": "atlas.aggregation",
    "tasks": "atlas.tasks",
    "models.families": "atlas.families",
    "data.sources": "atlas.sources",
    "data.corpora": "atlas.corpora",
    "audit.attacks": "atlas.attacks",
    "privacy.mechanisms": "atlas.mechanisms",
    "wire.codecs": "atlas.codecs",
    "sweeps.executors": "atlas.executors",
    "trackers.libraries": "atlas.trackers",
}
_NO_PLUGINS = {"contract"}
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


class Plugin(NamedTuple):
    """Where a plug-in is.

    Attributes:
        name: as in YAML.
        module: what to import.
        origin: in words, for messages: its file, or its package and entry point.
        package, version: of another package; None in this one.
    """

    name: str
    module: str
    origin: str
    package: str | None = None
    version: str | None = None


@cache
def names(package: str) -> tuple[str, ...]:
    """YAML names of the plug-ins of ``atlas_cli.<package>``, sorted; nothing is imported but the package itself."""
    return tuple(sorted(_known(package)))


def own_names(package: str) -> list[str]:
    """YAML names of the plug-ins that are files of this package."""
    return [name for name in names(package) if any(each.package is None for each in _known(package)[name])]


def installed(package: str) -> list[Plugin]:
    """The plug-ins of one kind that other packages bring."""
    return [each for found in _known(package).values() for each in found if each.package is not None]


def find(package: str, name: str, *, key: str | None = None) -> Plugin:
    """Where the plug-in of a name is; nothing is imported.

    Raises:
        ConfigError: no such name, with the nearest; or several plug-ins claim it.
    """
    known = _known(package)
    if name not in known:
        raise ConfigError(f"{name!r} is not known{one_of(name, known)}", key=key)
    first, *others = known[name]
    if others:
        raise ConfigError(
            f"{name!r} is claimed by {' and by '.join(each.origin for each in known[name])}; uninstall one of them, or"
            " rename its entry point",
            key=key,
        )
    return first


def load(package: str, name: str, *, key: str | None = None) -> ModuleType:
    """Import one plug-in by its YAML name.

    Raises:
        ConfigError: no such name, or several of it; or the module cannot be imported.
    """
    plugin = find(package, name, key=key)
    try:
        if not _MODULE.fullmatch(plugin.module) and plugin.package is not None:
            raise ConfigError("must name a module, such as lab_atlas.factor_median")
        return importlib.import_module(plugin.module)
    except AtlasError as error:  # a contract that says what is wrong, with the file
        where = f"{plugin.origin}: " if plugin.package is not None else ""
        raise ConfigError(f"{where}{error}", key=key) from error
    except (Exception, SystemExit) as error:
        what = on_one_line(f"{type(error).__name__}: {error}")[:300]
        raise ConfigError(f"{plugin.origin} cannot be imported: {what}{_place(error)}", key=key) from error


def _place(error: BaseException) -> str:
    """The last line of a plug-in, or of what it imports, in which an import failed; none where nothing was found."""
    import traceback

    machinery = (__file__, importlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in machinery and not frame.filename.startswith("<")
    ]
    return f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def misnamed() -> list[str]:
    """Entry points of other packages that look like plug-ins and can be none, each in a sentence."""
    known, found = GROUPS.values(), []
    for distribution, entry in _all_entry_points():
        if entry.group not in known:
            why = f"{entry.group} is no group of plug-ins{did_you_mean(entry.group, known)}"
        elif not _NAME.fullmatch(entry.name):
            why = "its name may have small letters, digits, - and _ alone"
        else:
            continue
        found.append(f"{_origin(distribution, entry)} is not used: {why}")
    return sorted(found)


@cache
def _known(package: str) -> Mapping[str, tuple[Plugin, ...]]:
    """All that claim a name, by name."""
    found: dict[str, tuple[Plugin, ...]] = {}
    others = _of_packages(GROUPS[package]) if package in GROUPS else ()
    for plugin in (*_files(package), *others):
        found[plugin.name] = (*found.get(plugin.name, ()), plugin)
    return found


def _files(package: str) -> Iterator[Plugin]:
    spec = find_spec(f"atlas_cli.{package}")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in pkgutil.iter_modules([folder]):
            if found.name[0] != "_" and found.name not in _NO_PLUGINS:
                file = (Path(folder) / f"{found.name}.py").relative_to(PACKAGE_FOLDER.parent)
                yield Plugin(_in_yaml(found.name), f"atlas_cli.{package}.{found.name}", file.as_posix())


def _of_packages(group: str) -> Iterator[Plugin]:
    for distribution, entry in _all_entry_points():
        if entry.group == group and _NAME.fullmatch(entry.name):
            origin = _origin(distribution, entry)
            yield Plugin(_in_yaml(entry.name), entry.value, origin, distribution.name, distribution.version)


@cache
def _all_entry_points() -> tuple[tuple[Distribution, EntryPoint], ...]:
    """Those of atlas that other packages have; of two copies of a package those of the one that Python imports."""
    from importlib.metadata import distributions  # slow to import, and `atlas --help` needs none of it

    found: dict[str, list[tuple[Distribution, EntryPoint]]] = {}
    for each in distributions():
        if entries := [(each, entry) for entry in _entry_points(each) if entry.group.startswith("atlas.")]:
            found.setdefault(each.name, entries)
    return tuple(pair for entries in found.values() for pair in entries)


def _origin(distribution: Distribution, entry: EntryPoint) -> str:
    where = f"entry point {entry.group}: {entry.name} = {entry.value}"
    return on_one_line(f"{distribution.name} {distribution.version} ({where})")


def _entry_points(distribution: Distribution) -> list[EntryPoint]:
    try:
        return list(distribution.entry_points)
    except (TypeError, ValueError, OSError):  # a file that no installer would have written
        return []


def _in_yaml(name: str) -> str:
    return name.replace("_", "-")
