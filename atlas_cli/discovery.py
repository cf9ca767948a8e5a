"""Plug-ins by file name: a file ``zero_pad.py`` in ``atlas_cli/aggregation/`` is ``method: zero-pad`` in YAML.

Files whose name starts with an underscore are shared code, not plug-ins; so are ``contract.py``, which says what a
plug-in of the folder must do, and ``conformance.py``, which tests it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.util import find_spec
from types import ModuleType

from atlas_cli.errors import ConfigError
from atlas_cli.suggest import did_you_mean

_NO_PLUGINS = {"contract", "conformance"}


@cache
def names(package: str) -> tuple[str, ...]:
    """YAML names of the plug-ins of ``atlas_cli.<package>``, sorted; nothing is imported but the package itself."""
    spec = find_spec(f"atlas_cli.{package}")
    paths = list(spec.submodule_search_locations or []) if spec else []
    files = (m.name for m in pkgutil.iter_modules(paths) if m.name[0] != "_" and m.name not in _NO_PLUGINS)
    return tuple(sorted(name.replace("_", "-") for name in files))


def load(package: str, name: str, *, key: str | None = None) -> ModuleType:
    """Import one plug-in by its YAML name.

    Raises:
        ConfigError: no such file; lists the names and suggests the nearest.
    """
    if name not in names(package):
        raise ConfigError(f"{name!r} is not known{did_you_mean(name, names(package))}", key=key)
    return importlib.import_module(f"atlas_cli.{package}.{name.replace('-', '_')}")
