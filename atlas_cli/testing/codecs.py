"""A test of a codec, for its author's own tests: ``codecs.check("my-codec", {"bits": 3})``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.wire.codecs import codec_of
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec

SHAPES = ((3, 6, 16), (1, 1, 7), (2, 5, 65), (1, 3, 1), (0, 4, 8), (2, 0, 8))


def check(name: str, options: Mapping[str, Any]) -> None:
    """Encode and decode tensors of several shapes, and hold what a codec does against what every codec promises.

    Raises:
        AssertionError: says which promise is broken.
        ConfigError: the codec breaks its contract, or does not have these options.
    """
    codec = codec_of(CodecConfig(codec=name, options=dict(options)), "wire.activations")
    draw = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            values = torch.randn(shape, generator=draw).to(dtype)
            check_values(codec, values)
        check_values(codec, torch.zeros(shape))
        assert not decoded(codec, torch.zeros(shape)).any(), "zeros are not decoded as zeros"


def check_values(codec: BaseCodec, values: Tensor) -> Tensor:
    """Send one tensor (B, T, D) of finite numbers; gives what is decoded.

    Raises:
        AssertionError: says which promise is broken.
    """
    before = values.clone()
    parts = codec.encode(values, _generator())
    assert values.equal(before), "encode changes what it is given"
    layout = codec.layout((values.shape[0], values.shape[1], values.shape[2]), values.dtype)
    sent = {name: (tuple(part.shape), part.dtype) for name, part in parts.items()}
    said = {name: (tuple(part.shape), part.dtype) for name, part in layout.items()}
    assert sent == said, f"encode sends {sent}, and layout says {said}"
    assert VALUES in sent, f"no part is named {VALUES}"
    assert sent[VALUES][0][:2] == tuple(values.shape[:2]), f"the first dimensions of {VALUES} are not B and T"
    again = codec.encode(values, _generator())
    assert all(again[name].equal(part) for name, part in parts.items()), "encode sends something else the second time"
    found = codec.decode(parts, values.shape[2])
    assert found.shape == values.shape, f"decode gives {tuple(found.shape)} for {tuple(values.shape)}"
    assert found.is_floating_point() and found.isfinite().all(), "decode gives what is not finite"
    assert all(again[name].equal(part) for name, part in parts.items()), "decode changes the parts"
    return found.to(values.dtype)


def decoded(codec: BaseCodec, values: Tensor) -> Tensor:
    """What the other side gets for ``values``."""
    return codec.decode(codec.encode(values, _generator()), values.shape[2])


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)
