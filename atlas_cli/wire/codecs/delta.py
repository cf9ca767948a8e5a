"""The change of a text since its last message (AQ-SGD, 2206.01299), by another codec; its first message in full.

Both ends keep what was decoded of each text last, m, and go on from it: what is sent is Q(h - m), and m + Q(h - m) is
decoded and kept. Codec and options of the change are under ``codec`` and ``options``, those of a text's first message
under ``first`` and ``first_options``. A change becomes small as training settles, and so does its error, which is made
good with the next message. With ``codec: low-rank`` it is SplitLite's (2608.23018).

The number of each text among the client's examples goes up with the activations, 4 bytes a text: the server knows by it
which messages are of one text. Padding is sent as 0. Either end keeps 4 D bytes for each real token of each of the
client's texts; they are part of the client's state, also in checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from atlas_cli.config.schema.section import Section, one_of
from atlas_cli.errors import ConfigError
from atlas_cli.wire.codecs import made
from atlas_cli.wire.codecs.contract import BaseCodec, Layout


class Options(Section):
    """How changes are sent, and how a text's first message is."""

    codec: Annotated[str, one_of("wire.codecs")] = Field("int4", description="The codec of a change.")
    options: dict[str, Any] = Field({}, description="Its options.", examples=[{"block": 64}])
    first: Annotated[str, one_of("wire.codecs")] = Field("none", description="The codec of a text's first message.")
    first_options: dict[str, Any] = Field({}, description="Its options.", examples=[{"block": 64}])


class Codec(BaseCodec):
    """Sends what a text has changed."""

    Options = Options

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._first = made(options.first, options.first_options, "first", "first_options")
        self._change = made(options.codec, options.options, "codec", "options")
        for key, codec, instead in (("first", self._first, "bfloat16"), ("codec", self._change, "low-rank")):
            if codec.change() is not None:
                raise ConfigError(f"delta sends texts by another codec than itself; take int4 or {instead}", key=key)

    @property
    def couples_examples(self) -> bool:  # type: ignore[override]
        """As its codecs do."""
        return self._first.couples_examples or self._change.couples_examples

    def layout(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Layout:
        """Of first messages."""
        return self._first.layout(shape, dtype)

    def encode(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """A first message."""
        return self._first.encode(values, generator)

    def decode(self, parts: Mapping[str, Tensor], width: int) -> Tensor:
        """A first message."""
        return self._first.decode(parts, width)

    def change(self) -> BaseCodec:
        """The codec of a change."""
        return self._change
