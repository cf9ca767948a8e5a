"""Model families: one file each, found by ``model_type`` of config.json; the contract is ``contract.BaseFamily``."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli import discovery
from atlas_cli.errors import ConfigError
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.plugins import load_class

_families: dict[type[BaseFamily], BaseFamily] = {}  # one of each class


def family_for(model_type: object) -> BaseFamily | None:
    """The family of a Hugging Face ``model_type``; None if no family covers it.

    Families of other packages are imported only for types that no family of this package covers.

    Raises:
        ConfigError: a family that is asked breaks its contract.
    """
    return next((family for family in _all() if model_type in family.model_types), None)


def family_of(model_type: str) -> BaseFamily:
    """The family of a Hugging Face ``model_type``.

    Raises:
        ConfigError: not supported; lists what is. Or as ``family_for``.
    """
    family = family_for(model_type)
    if family is None:
        raise ConfigError(
            f"architecture {model_type!r} is not supported; supported: {', '.join(supported())} "
            "(a new family is one file in atlas_cli/models/families/, or a plug-in of another package)",
            key="model.name",
        )
    return family


def supported() -> list[str]:
    """All values of ``model_type`` that a family covers."""
    return sorted({name for family in _all() for name in family.model_types})


def _all() -> Iterator[BaseFamily]:
    """All families, those of this package first."""
    found = [discovery.find("models.families", name) for name in discovery.names("models.families")]
    for plugin in sorted(found, key=lambda plugin: plugin.package is not None):
        family = load_class("models.families", plugin.name, "Family", BaseFamily)
        yield _families.setdefault(family, family())
