"""Token recovery without any training: the token whose input embedding has the largest cosine with the activation.

Residual connections carry the input embedding upwards, so that after the first blocks of a model it is still the
nearest of the whole vocabulary. Nothing is fitted, nothing is centred, and no position is used.
"""

from __future__ import annotations

from atlas_cli.audit.attacks._recovery import nearest, recovery
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure


class Attack(BaseAttack):
    """Recovers tokens by the nearest embedding."""

    channel = "activations"
    knows = "the frozen model"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of tokens recovered."""
        seen = evidence.chosen_tokens()
        return recovery(self, evidence, seen, nearest(seen.hidden, evidence.embedding))
