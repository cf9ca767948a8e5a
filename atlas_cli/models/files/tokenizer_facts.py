"""Hashes of all that determines how a tokenizer encodes texts, and of the files that it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas_cli.hashing import sha256_file, sha256_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model"),
    "sentencepiece.bpe.model",
)
_NOT_SETTINGS = (
    *("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "cache_dir"),
    "chat_template",  # a part of its own
)


def tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Hashes of a tokenizer's parts: equal ones give equal ids, with the same versions of the libraries."""
    settings = {name: repr(value) for name, value in tokenizer.init_kwargs.items() if name not in _NOT_SETTINGS}
    if getattr(tokenizer, "is_fast", False):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # what the last call left there; each call of the tokenizer sets both anew
        backend.no_padding()
        rules = backend.to_str()
    else:
        rules = repr(sorted(tokenizer.get_vocab().items()))
    parts = {
        "class": type(tokenizer).__qualname__,
        "vocabulary and rules": rules,
        "special tokens": repr(sorted(tokenizer.special_tokens_map.items())),
        "settings": repr([sorted(settings.items()), tokenizer.model_max_length, tokenizer.padding_side]),
        "chat template": repr(getattr(tokenizer, "chat_template", None)),
    }
    return {name: sha256_text(text) for name, text in parts.items()}


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Hashes of a tokenizer's files by path, if it comes from a local folder."""
    folder = Path(str(tokenizer.name_or_path))
    paths = [folder / name for name in _FILES] if folder.is_dir() else []
    return {str(path): sha256_file(path) for path in paths if path.is_file()}
