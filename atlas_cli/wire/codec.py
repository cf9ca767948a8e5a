"""Fewer bits for the floats of a message: bfloat16, or int8 with a scale a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from atlas_cli.wire.messages import Message

LEVELS = 127


class Codec:
    """What is sent instead of a message's (B, T, D) floats.

    Args:
        kind: of the numbers on the wire.
    """

    def __init__(self, kind: Literal["bfloat16", "int8"]) -> None:
        self.kind = kind

    def encode(self, message: Message) -> Message:
        """The message as it crosses the wire."""
        return replace(message, tensors=encoded(message.tensors, self.kind))

    def decode(self, wire: Message, message: Message) -> Message:
        """What the receiver makes of it, in the names and types of ``message``."""
        tensors = dict(message.tensors)
        for name, tensor in message.tensors.items():
            value = wire.tensors[name]
            if f"{name}_scale" in wire.tensors:
                value = value.float() * wire.tensors[f"{name}_scale"].unsqueeze(-1)
            tensors[name] = value.to(tensor.dtype)
        return replace(message, tensors=tensors)

    def token_bytes(self, hidden: int) -> int:
        """Bytes of a token of ``hidden`` numbers."""
        return 2 * hidden if self.kind == "bfloat16" else hidden + 4


def encoded(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors as they cross the wire; those that are not (B, T, D) floats as they are. Also on the meta device."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 3 or not tensor.is_floating_point():
            result[name] = tensor
        elif kind == "bfloat16":
            result[name] = tensor.to(torch.bfloat16)
        else:
            scale = tensor.float().abs().amax(-1) / LEVELS
            steps = tensor.float() / scale.clamp(min=1e-30).unsqueeze(-1)
            result[name], result[f"{name}_scale"] = steps.round().to(torch.int8), scale
    return result
