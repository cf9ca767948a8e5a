"""The code of plug-ins of other packages, by hash: what a run was computed with, and what nodes must have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from atlas_cli import discovery
from atlas_cli.hashing import sha256_file

OWN = "atlas_cli"
_COMPUTE = (OWN, "torch", "transformers")


def are_foreign(parts: Iterable[object]) -> bool:
    """Whether code of another package than atlas, torch and transformers computes in any of these."""
    return any(type(part).__module__.split(".")[0] not in _COMPUTE for part in parts)


def code_of(module: str) -> dict[str, str]:
    """Hashes of all Python files of the package that a module lies in, by path; of one that lies in none its own.

    The package is found without importing it.
    """
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        spec = find_spec(".".join(names[:depth]))
        if spec is None:
            return {}
        if spec.origin is not None:  # else a namespace, in which packages of several owners may lie
            path = Path(spec.origin)
            files = path.parent.rglob("*.py") if path.name == "__init__.py" else [path]
            above = path.parents[depth] if path.name == "__init__.py" else path.parents[depth - 1]
            return {file.relative_to(above).as_posix(): sha256_file(file) for file in sorted(files)}
    return {}


def installed_packages() -> dict[str, str]:
    """Versions of the packages that bring plug-ins, with a hash of their code, which tells apart two states of one."""
    modules: dict[tuple[str, str], set[str]] = {}
    for kind in discovery.GROUPS:
        for plugin in discovery.installed(kind):
            modules.setdefault((plugin.package or "", plugin.version or ""), set()).add(plugin.module)
    return {
        package: f"{version} ({_digest({path: sha for each in sorted(found) for path, sha in _code(each).items()})})"
        for (package, version), found in modules.items()
    }


def _code(module: str) -> dict[str, str]:
    try:
        return code_of(module)
    except (ImportError, ValueError):  # an entry point that names no module; whoever asks for it is told
        return {}


def _digest(code: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:12]
