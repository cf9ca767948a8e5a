"""Model families: one file each, found by file name; see ``contract.Family`` for what a file must say."""

from __future__ import annotations

from atlas_cli import discovery
from atlas_cli.errors import ConfigError
from atlas_cli.models.families.contract import Family


def supported() -> dict[str, Family]:
    """All supported ``model_type`` values and their family."""
    found: dict[str, Family] = {}
    for name in discovery.names("models.families"):
        family: Family = discovery.load("models.families", name).FAMILY
        found.update(dict.fromkeys(family.model_types, family))
    return found


def family_of(model_type: str) -> Family:
    """The family of a Hugging Face ``model_type``.

    Raises:
        ConfigError: not supported; lists what is.
    """
    known = supported()
    if model_type not in known:
        raise ConfigError(
            f"architecture {model_type!r} is not supported; supported: {', '.join(sorted(known))} "
            "(a new family is one file in atlas_cli/models/families/)",
            key="model.name",
        )
    return known[model_type]
