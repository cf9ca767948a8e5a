"""Mechanisms by the name of their section under ``privacy``. One file each; see ``contract.BaseMechanism``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from atlas_cli import discovery
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.errors import ConfigError
from atlas_cli.plugins import checked_options, load_class

if TYPE_CHECKING:
    from atlas_cli.privacy.mechanisms.contract import BaseMechanism

PACKAGE = "privacy.mechanisms"


class ActiveMechanism(NamedTuple):
    """A mechanism that a config asks for: its class, and its options (a plain value if it has no section)."""

    mechanism: type[BaseMechanism]
    options: Any


def active_mechanisms(privacy: PrivacyConfig) -> dict[str, ActiveMechanism]:
    """The mechanisms that a config asks for, by key.

    Raises:
        ConfigError: one that breaks its contract, or an option that it does not have.
    """
    from atlas_cli.privacy.mechanisms.contract import BaseMechanism

    found = {}
    for name in discovery.names(PACKAGE):
        key = name.replace("-", "_")
        options = getattr(privacy, key) if key in type(privacy).model_fields else None
        if options is None or options is False or options == "none":
            continue
        place = f"privacy.{key}"
        mechanism = load_class(PACKAGE, name, "Mechanism", BaseMechanism, key=place)
        if key in privacy.added():
            if mechanism.channel is not None:
                origin = discovery.find(PACKAGE, name).origin
                raise ConfigError(f"{origin}: no account counts its epsilon, so its channel must be None", key=place)
            options = checked_options(mechanism.Options, options, place)
        found[key] = ActiveMechanism(mechanism, options)
    return found
