"""The replacement of tokens that a config asks for, over the tokens of its model, and of the data of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.errors import ConfigError
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.privacy.mechanisms._replacement import TokenReplacement
from atlas_cli.privacy.mechanisms.custext import CusText
from atlas_cli.privacy.mechanisms.santext import SanText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_replacement(
    privacy: PrivacyConfig, base: FrozenBase, tokenizer: PreTrainedTokenizerBase
) -> TokenReplacement | None:
    """The replacement of tokens that a config asks for; None without any.

    Raises:
        ConfigError: there are fewer tokens than a set should have.
    """
    if privacy.replaces_tokens() is None:
        return None
    vectors_VD = base.model.get_input_embeddings().weight  # type: ignore[operator]
    special = set(tokenizer.all_special_ids)
    known = sorted(set(tokenizer.get_vocab().values()) - special)
    ids_M = torch.tensor([token for token in known if token < len(vectors_VD)])
    if privacy.santext is not None:
        return SanText(privacy.santext, vectors_VD, ids_M)
    assert privacy.custext is not None
    if privacy.custext.tokens > len(ids_M):
        raise ConfigError(
            f"the tokenizer has {len(ids_M)} tokens that are not special; set it to that or less",
            key="privacy.custext.tokens",
        )
    return CusText(privacy.custext, vectors_VD, ids_M)


def replace_tokens(
    groups: Mapping[str, PreparedGroup], replacement: TokenReplacement, seed: int
) -> dict[str, PreparedGroup]:
    """The same groups with other tokens in all parts: those of clients, and those that predictions are scored on."""
    result = {}
    for name, group in groups.items():
        parts = {
            part: {client: replacement.replaced(features, seed, part, client) for client, features in held.items()}
            for part, held in (("train", group.train), ("local-test", group.local_test))
        }
        scored = {part: replacement.replaced(group.scored[part], seed, part, name) for part in group.scored}
        result[name] = replace(
            group,
            train=parts["train"],
            local_test=parts["local-test"],
            test=scored["test"],
            validation=scored.get("validation", []),
        )
    return result
