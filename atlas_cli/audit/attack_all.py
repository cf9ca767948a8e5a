"""Runs every attack on the recorded messages of a run, and computes the privacy score from the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from atlas_cli.audit.attacks import attack_names, attack_of
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, Inapplicable, privacy_score
from atlas_cli.audit.update_norms import compared_norms, update_norms
from atlas_cli.errors import ConfigError

FILE = "audit.json"


def audit(
    evidence: Evidence, attacks: Sequence[str] = (), tell: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Run the attacks, and return the record that audit.json holds.

    Args:
        attacks: names of attacks; default: all.
        tell: called with the name of each attack before it runs, and with the progress of long ones.

    Raises:
        ConfigError: there is no attack of that name.
    """
    evidence.tell = tell
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    for name in attacks or attack_names():
        tell(name)
        try:
            figures.append(attack_of(name, key="--attack").attack(evidence))
        except Inapplicable as reason:
            skipped[name] = str(reason)
        except ConfigError as error:  # of a plug-in that nobody asked for
            if attacks:
                raise
            skipped[name] = error.message
    messages, federation = evidence.messages, evidence.federation
    return {
        "run": evidence.run.path.name,
        "privacy_score": privacy_score(figures),
        "attacks": [figure.record() for figure in figures],
        "not_measured": skipped,
        "epsilon": federation.protection.figures(federation.config.training.rounds),
        "epsilon_of": federation.protection.units(),
        "delta": federation.config.privacy.delta,
        "update_norms": update_norms(evidence),
        "norms": compared_norms(evidence),
        "texts": evidence.most,
        "recorded": {"messages": len(messages), "rounds": sorted({m.round for m in messages})},
    }
