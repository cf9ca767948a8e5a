"""Fewer bits for the hidden states of a message: bfloat16, or int8 with a scale a token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from atlas_cli.wire.messages import HiddenStates

LEVELS = 127
M = TypeVar("M", bound=HiddenStates)


class Codec:
    """Compresses a message's (B, T, D) floats.

    Args:
        kind: of the numbers on the wire.
    """

    def __init__(self, kind: Literal["bfloat16", "int8"]) -> None:
        self.kind = kind

    def encode(self, message: M) -> M:
        """The message as it crosses the wire; works on the meta device, too."""
        states: Tensor = getattr(message, message.states)
        if self.kind == "bfloat16":
            return _with(message, states.to(torch.bfloat16), None)
        scale = states.float().abs().amax(-1) / LEVELS
        steps = states.float() / scale.clamp(min=1e-30).unsqueeze(-1)
        return _with(message, steps.round().to(torch.int8), scale)

    def decode(self, wire: M, message: M) -> M:
        """The decoded message, with hidden states of the dtype that ``message`` had before."""
        return _with(wire, wire.floats().to(getattr(message, message.states).dtype), None)

    def token_bytes(self, hidden: int) -> int:
        """Bytes of a token of ``hidden`` numbers."""
        return 2 * hidden if self.kind == "bfloat16" else hidden + 4


def _with(message: M, states: Tensor, scale: Tensor | None) -> M:
    changes: dict[str, Any] = {message.states: states, f"{message.states}_scale": scale}
    return replace(message, **changes)
