"""A codec of the table of split layers: what it keeps of the client's texts, and what it cannot be asked for."""

from __future__ import annotations

from dataclasses import replace

from atlas_cli import discovery
from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.cuts.table import Setting
from atlas_cli.planning.memory.encoding import coding_bytes
from atlas_cli.suggest import one_of
from atlas_cli.wire.codecs import codec_of


def with_texts(setting: Setting, text_tokens: int | None, width: int) -> Setting:
    """The setting with what its codec takes while it works, and what it keeps of a client's texts after an epoch.

    Args:
        text_tokens: of all of them; the server keeps those of one client. None: nothing is said of them.
        width: D.

    Raises:
        ConfigError: no such codec, one that a frozen client cannot have, or texts that go with none.
    """
    if setting.codec not in (known := discovery.names("wire.codecs")):
        raise ConfigError(f"{setting.codec!r} cannot be chosen{one_of(setting.codec, known)}", key="--codec")
    by_token = codec_of(CodecConfig(codec=setting.codec), "--codec").by_token
    if setting.learns == "frozen" and not by_token:
        raise ConfigError(
            f"{setting.codec} does not encode each token alone, and a frozen client sends a text once, for all "
            "batches; take none, bfloat16, int8, int4, nf4 or top-k",
            key="--codec",
        )
    codecs = setting.codecs(width)
    if codecs.numbered and text_tokens is None:
        raise ConfigError(
            f"{setting.codec} keeps what was sent last of each text, for which both ends need memory; give the tokens "
            "of all the client's texts, --text-tokens",
            key="--codec",
        )
    if text_tokens is not None and not codecs.numbered:
        raise ConfigError(
            f"--codec {setting.codec} keeps nothing of texts; take delta, or leave it out", key="--text-tokens"
        )
    tokens = text_tokens or 0
    return replace(
        setting,
        kept=tokens * codecs.kept_token_bytes("client"),
        server_kept=tokens * codecs.kept_token_bytes("server"),
        coding=coding_bytes(codecs, setting.batch, setting.tokens),
    )
