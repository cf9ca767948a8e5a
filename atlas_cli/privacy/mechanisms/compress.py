"""Activations, features and their gradients cross the wire in fewer bits. Not a defence: as much is recovered.

bfloat16 rounds each number, 2 D bytes a token; int8 sends round(h / s) with s = max |h| / 127 a token (float32), D + 4
bytes. What was lost is treated as if it had not been (straight-through): each side goes on with its exact values, and
the other with what came. Plain float16 would lose gradients, most of which are below its smallest normal number.
"""

from __future__ import annotations

from atlas_cli.privacy.mechanisms.contract import BaseMechanism


class Mechanism(BaseMechanism):
    """Sends activations, features and their gradients in fewer bits."""

    protects = "nothing; fewer bytes"
