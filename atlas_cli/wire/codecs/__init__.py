"""Codecs by the name of their file, as ``wire`` names them in a config. One file each; see ``contract.BaseCodec``."""

from __future__ import annotations

from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.plugins import checked_options, load_class
from atlas_cli.wire.codecs.contract import BaseCodec

PACKAGE = "wire.codecs"


def codec_of(config: CodecConfig, key: str) -> BaseCodec:
    """The codec that a config asks for; ``key`` is where it does.

    Raises:
        ConfigError: one that breaks its contract, or an option that it does not have.
    """
    codec = load_class(PACKAGE, config.codec, "Codec", BaseCodec, key=f"{key}.codec")
    return codec(checked_options(codec.Options, config.options, f"{key}.options", config.codec))
