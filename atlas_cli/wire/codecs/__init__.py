"""Codecs by the name of their file, as ``wire`` names them in a config. One file each; see ``contract.BaseCodec``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.errors import ConfigError
from atlas_cli.plugins import checked_options, load_class
from atlas_cli.wire.codecs.contract import BaseCodec

PACKAGE = "wire.codecs"


def codec_of(config: CodecConfig, key: str) -> BaseCodec:
    """The codec that a config asks for; ``key`` is where it does.

    Raises:
        ConfigError: one that breaks its contract, or an option that it does not have.
    """
    return made(config.codec, config.options, f"{key}.codec", f"{key}.options")


def made(name: str, options: Mapping[str, Any], key: str, options_key: str) -> BaseCodec:
    """A codec by its name and options, and the keys that say them.

    A codec of codecs, whose options are keys of its own, raises errors with keys below its options.

    Raises:
        ConfigError: as ``codec_of``.
    """
    codec = load_class(PACKAGE, name, "Codec", BaseCodec, key=key)
    checked = checked_options(codec.Options, options, options_key, name)
    try:
        return codec(checked)
    except ConfigError as error:
        raise ConfigError(error.message, key=f"{options_key}.{error.key}" if error.key else key) from None
