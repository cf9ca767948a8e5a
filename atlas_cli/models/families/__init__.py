"""Model families: one file each, found by ``model_type`` of config.json; the contract is ``contract.BaseFamily``."""

from __future__ import annotations

from atlas_cli import discovery
from atlas_cli.discovery import Plugin
from atlas_cli.errors import ConfigError
from atlas_cli.models.families._refused import require_cut
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.plugins import load_class

_families: dict[type[BaseFamily], BaseFamily] = {}  # one of each class


def family_for(model_type: object) -> BaseFamily | None:
    """The family of a Hugging Face ``model_type``; None if no family covers it.

    Raises:
        ConfigError: two families cover it; or a family that may be meant is broken, since no family of this package
            covers the type.
    """
    own = [each for each in _plugins() if each.package is None and model_type in _family(each).model_types]
    found = [*own, *(each for each in _plugins() if each.package is not None and _covers(each, model_type, bool(own)))]
    if len(found) > 1:
        origins = " and by ".join(each.origin for each in found)
        raise ConfigError(
            f"model_type {model_type!r} is claimed by {origins}; uninstall one, or take the type out of it",
            key="model.name",
        )
    return _family(found[0]) if found else None


def family_of(model_type: str) -> BaseFamily:
    """The family of a Hugging Face ``model_type``.

    Raises:
        ConfigError: not supported; why, or what is. Or as ``family_for``.
    """
    family = family_for(model_type)
    if family is None:
        require_cut(model_type)
        raise ConfigError(
            f"architecture {model_type!r} is not supported; supported: {', '.join(supported())} "
            "(a new family is one file in atlas_cli/models/families/, or a plug-in of another package)",
            key="model.name",
        )
    return family


def supported() -> list[str]:
    """All values of ``model_type`` that a family covers."""
    return sorted({name for plugin in _plugins() for name in _family(plugin).model_types})


def _plugins() -> list[Plugin]:
    return [discovery.find("models.families", name) for name in discovery.names("models.families")]


def _family(plugin: Plugin) -> BaseFamily:
    family = load_class("models.families", plugin.name, "Family", BaseFamily)
    return _families.setdefault(family, family())


def _covers(plugin: Plugin, model_type: object, others_do: bool) -> bool:
    """Whether a family of another package covers the type; a broken one is passed over where it is not needed."""
    try:
        return model_type in _family(plugin).model_types
    except ConfigError:
        if others_do:
            return False
        raise
