"""Model families: one file each, found by ``model_type`` of config.json; the contract is ``contract.BaseFamily``."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedConfig

from atlas_cli import discovery
from atlas_cli.discovery import Plugin
from atlas_cli.errors import ConfigError
from atlas_cli.models.families._by_shape import by_shape, computed_by, nearest
from atlas_cli.models.families._refused import require_cut
from atlas_cli.models.families._tested import CLAIMS
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


def family_of(model: PreTrainedConfig | str, wanted: str = "known") -> BaseFamily:
    """The family of a model, by its config or its ``model_type``.

    Args:
        wanted: the value of ``model.family``; with "auto" one is found by the model's shape if no file covers it.

    Raises:
        ConfigError: not supported; why, or the nearest family and what is. Or as ``family_for``.
    """
    model_type = model if isinstance(model, str) else model.model_type
    if (family := family_for(model_type)) is not None:
        return family
    require_cut(model_type)
    if wanted == "auto" and not isinstance(model, str):
        return by_shape(model)
    near = None if isinstance(model, str) else nearest(model, [(p.name, _family(p)) for p in _plugins()])
    raise ConfigError(
        f"architecture {model_type!r} is not supported"
        + ("" if near is None else f"; its blocks are most like those of {near}, and model.family: auto tries it")
        + f"; supported: {', '.join(supported())} (a new family is one file in atlas_cli/models/families/, or a "
        "plug-in of another package)",
        key="model.name",
    )


def computed_options(model_type: object) -> tuple[str, ...]:
    """Options of config.json that a model computes although others do not: its family's, or those of its own class."""
    family = family_for(model_type)
    return computed_by(model_type) if family is None else family.options


class Supported(NamedTuple):
    """A ``model_type`` that a family covers.

    Attributes:
        family: its name; ``package``: the one that brings it, None for this one.
        tested: whether each claim of ``CLAIMS`` is made of it, by name; nothing is claimed of another package's.
    """

    model_type: str
    family: str
    package: str | None
    causal: bool
    tested: dict[str, bool]


def supported_models() -> list[Supported]:
    """All model types, by family, with what is tested of each."""
    found = []
    for plugin in _plugins():
        family = _family(plugin)
        tested = {claim.name: plugin.package is None and claim.of(family) for claim in CLAIMS}
        found += [Supported(each, plugin.name, plugin.package, family.causal, tested) for each in family.model_types]
    return found


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
