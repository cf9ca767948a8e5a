"""The contract of a codec. Each has a file in this folder, named as in ``wire.<kind>.codec`` (``_`` for ``-``); its
class is named ``Codec``.

A codec says how the hidden states of a message, or their gradients, cross the wire in fewer bytes. Its parts are the
tensors that are sent: what their layout says is what the ledger counts, and nothing else reaches the other side. What
the codec loses is treated as if it had not been lost (straight-through): each side goes on with its exact values, and
the other with what it decodes.

A codec that is added, here or by another package, is that one file. Names of its own begin with an underscore: any
other name that ``BaseCodec`` does not have is refused when the codec is loaded. ``atlas_cli.testing.codecs`` tests a
codec, in one line of a plug-in's own tests.

Shapes: B batch, T tokens (padded to the longest of the batch), D hidden size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from atlas_cli.config.schema.section import Section

VALUES = "values"  # the part that every codec has


class Part(NamedTuple):
    """A tensor that is sent: its shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


Layout = dict[str, Part]


class BaseCodec(ABC):
    """A codec: ``wire: {<kind of message>: {codec: <name>, options: {<options>}}}`` in YAML.

    Args:
        options: an instance of ``Options``.

    Raises:
        ConfigError: options that do not go together; its key is that of an option, without what is above it.

    Attributes:
        Options: the config section under ``options``.
        couples_examples: what is decoded of one example depends on the others of its batch.
        by_token: what is decoded of a token depends on nothing but that token, and all parts are (B, T, ...).
        encode_flops, decode_flops: what a number takes on the virtual clock: operations of a matrix product that takes
            as long, as ``benchmarks/codecs.py`` measures them; 0 is not counted.
    """

    Options: ClassVar[type[Section]] = Section
    couples_examples: ClassVar[bool] = False
    by_token: ClassVar[bool] = False
    encode_flops: ClassVar[float] = 0.0
    decode_flops: ClassVar[float] = 0.0

    def __init__(self, options: Any) -> None:
        self.options = options

    def flops(self, width: int) -> tuple[float, float]:
        """What encoding and decoding a number takes on the virtual clock, for D = ``width``: ``encode_flops`` and
        ``decode_flops``, unless it depends much on the options."""
        return self.encode_flops, self.decode_flops

    @abstractmethod
    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """The parts of a tensor (B, T, D) of a type, by name: the closed form of what is sent.

        One of them is ``values``, whose first two dimensions are B and T; others may have any shape.
        """

    @abstractmethod
    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The parts of ``values`` (B, T, D), all finite, on their device; B or T may be 0.

        Args:
            generator: for what a codec draws, on the CPU; equal for equal client, kind of message, round and step.
        """

    @abstractmethod
    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """The decoded floats (B, T, D), of any floating type.

        Args:
            width: D.
        """

    def change(self) -> BaseCodec | None:
        """The codec of the change of a text since its last message, where both ends keep what was decoded of it last.

        Then ``encode`` and ``decode`` are of the texts that have no last message. None: nothing is kept.
        """
        return None
