"""The tokens of tokenizer.json, which a model was trained with, whatever class transformers picks for its type.

transformers 5 picks a tokenizer class by the model's type and builds it from the vocabulary: the normalizer, the
pre-tokenizer and the special tokens of the file may be replaced by that class' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from atlas_cli.errors import ConfigError
from atlas_cli.hashing import sha256_file, sha256_text
from atlas_cli.models.files.source import Source, reason

_AROUND = 8  # tokens shown from the first that differs on
_LONGEST = 60  # characters of a text that is shown
_LABELS = ("label", "labels", "tags")  # fields of a row that are not tokenized


def require_vocabulary_files(tokenizer: PreTrainedTokenizerBase, source: Source) -> None:
    """Require the files of a vocabulary, without which a class knows special tokens only, and no word.

    Raises:
        FileNotFoundError: neither tokenizer.json is there nor the files of its class.
    """
    names = [name for key, name in type(tokenizer).vocab_files_names.items() if key != "tokenizer_file"]
    if source.file("tokenizer.json") is None and not (names and all(source.file(name) for name in names)):
        raise FileNotFoundError(f"there is no tokenizer.json and no {' with '.join(names)}")


def require_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Check that the embedding has a row for every token.

    Raises:
        ConfigError: it is another model's tokenizer, or one whose numbers have gaps.
    """
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        more = f" (nor have {len(beyond) - 1} others)" if beyond[1:] else ""
        raise ConfigError(
            f"token id {number}, {token!r:.80}, has no embedding row{more}: the model has {rows}, for ids 0 to "
            f"{rows - 1}; give the tokenizer that belongs to it",
            key="model.tokenizer",
        )


def as_the_file_has_it(tokenizer: PreTrainedTokenizerBase, source: Source) -> Any:
    """The tokenizer itself if its rules are those of tokenizer.json, else one that takes them from there.

    The tokenizer that it replaces is kept in its attribute ``overruled``.
    """
    file = source.file("tokenizer.json")
    if file is None or not getattr(tokenizer, "is_fast", False):
        return tokenizer
    stored = Tokenizer.from_file(str(file))
    if _rules(stored) == _rules(tokenizer.backend_tokenizer):
        return tokenizer
    held = stored.get_vocab()
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if token in held}
    taken = PreTrainedTokenizerFast.from_pretrained(
        source.path, **{**special, "model_input_names": tokenizer.model_input_names}, **source.options
    )
    taken.overruled = tokenizer
    return taken


def other_tokens(tokenizer: PreTrainedTokenizerBase, rows: Iterable[object]) -> str | None:
    """Of the first text among ``rows`` whose tokens would be others without tokenizer.json: both, in one sentence."""
    overruled = getattr(tokenizer, "overruled", None)
    if overruled is None:
        return None
    for text in _texts(rows):
        taken, other = _tokens(tokenizer, text), _tokens(overruled, text)
        if taken != other:
            same = next((i for i, pair in enumerate(zip(taken, other, strict=False)) if pair[0] != pair[1]), 0)
            shown = [" ".join(tokens[same : same + _AROUND]) for tokens in (taken, other)]
            return (
                f"tokens are those of tokenizer.json; {type(overruled).__name__} of transformers makes others, e.g. of "
                f"{text[:_LONGEST]!r} from token {same + 1} on: {shown[0]!r} here, {shown[1]!r} there"
            )
    return None


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    try:
        tokens: list[str] = tokenizer.backend_tokenizer.encode(text).tokens
    except Exception as error:  # a class that is not made for this vocabulary may have no tokens for a text
        return [f"({reason(error)})"]
    return tokens


def _rules(backend: Any) -> list[object]:
    """The rules that determine the tokens of a text."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.model)
    backend.no_truncation()
    backend.no_padding()
    framed = [backend.encode(*texts) for texts in (("",), ("", ""))]  # the special tokens alone
    return [part and part.__getstate__() for part in parts] + [(f.ids, f.type_ids) for f in framed]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(inner for name, inner in value.items() if name not in _LABELS)
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _texts(inner)


_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model"),
    *("sentencepiece.bpe.model", "spm.model"),
)
_NOT_SETTINGS = (
    *("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "cache_dir"),
    "chat_template",  # a part of its own
)


def tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Hashes of a tokenizer's parts: equal ones give equal ids, with the same versions of the libraries."""
    settings = {name: repr(value) for name, value in tokenizer.init_kwargs.items() if name not in _NOT_SETTINGS}
    if "local_files_only" in settings:  # of HF_HUB_OFFLINE: a run that is begun with the hub goes on without
        settings["local_files_only"] = repr(False)
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
