"""Attacks on recorded messages, one file each: ``mlp_inverter.py`` is ``atlas audit --attack mlp-inverter``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas_cli import discovery
from atlas_cli.plugins import load_class

if TYPE_CHECKING:
    from atlas_cli.audit.attacks.contract import BaseAttack

PACKAGE = "audit.attacks"


def attack_names() -> tuple[str, ...]:
    """The names of all attacks, sorted; no attack is imported."""
    return discovery.names(PACKAGE)


def attack_of(name: str, *, key: str | None = None) -> BaseAttack:
    """Load an attack by its name.

    Raises:
        ConfigError: no such attack, with the nearest; or it breaks the contract.
    """
    from atlas_cli.audit.attacks.contract import BaseAttack

    return load_class(PACKAGE, name, "Attack", BaseAttack, key=key)(name)
