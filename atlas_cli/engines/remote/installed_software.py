"""Compares software versions, which must be equal on all nodes of a cluster for equal results."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

from atlas_cli.errors import ConfigError
from atlas_cli.package_folder import PACKAGE_FOLDER
from atlas_cli.plugin_code import installed_packages


class InstalledSoftware(NamedTuple):
    """Versions by name, and where: the node's name, and the process number.

    Those of atlas and of packages with plug-ins come with a hash of their files.
    """

    versions: Mapping[str, str]
    node: str
    pid: int

    @classmethod
    def here(cls) -> InstalledSoftware:
        """The software of this process."""
        packages = {name: version(name) for name in ("torch", "transformers", "numpy")}
        packages |= {name: version(name) for name in ("bitsandbytes",) if find_spec(name) is not None}
        atlas = f"{version('atlas-cli')} ({_sources()})"
        versions = {"atlas": atlas, "python": platform.python_version(), **packages, **installed_packages()}
        return cls(versions, socket.gethostname(), os.getpid())

    def matches(self, expected: Mapping[str, str]) -> bool:
        """Whether all versions are equal to these."""
        return dict(self.versions) == dict(expected)


def require_same_software(there: InstalledSoftware) -> None:
    """Compare a node with this process.

    Raises:
        ConfigError: names what differs.
    """
    here = InstalledSoftware.here().versions
    differ = [name for name in {**here, **there.versions} if here.get(name) != there.versions.get(name)]
    if other := [f"{name} {there.versions.get(name)}, here {here.get(name)}" for name in differ]:
        raise ConfigError(
            f"{there.node} has {'; '.join(other)}; install the same on all nodes, or results would differ",
            key="engine.address",
        )


@cache
def _sources() -> str:
    """A hash of all files of the package, which tells apart two states of one version."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE_FOLDER.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
