"""Lists of values as options have them: ``4,8,16``, ``2-6``, ``none,nf4``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from atlas_cli import discovery
from atlas_cli.config.schema.experiment import ClientConfig
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import one_of

MOST = 1000  # values of a list; more is a typing error
_OPTION = {
    "checkpointing": "--checkpointing",
    "embedding": "--embeddings",
    "dtype": "--dtypes",
    "learns": "--learns",
    "quantization": "--quantizations",
}


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers from 1 on.

    Raises:
        ConfigError: others, or too many.
    """
    found = []
    for part in _parts(text, option):
        if not re.fullmatch(r"[0-9]{1,6}", part) or int(part) < 1:
            raise ConfigError(f"{part!r} is not a whole number from 1 on; write e.g. 4,8,16", key=option)
        found.append(int(part))
    return list(dict.fromkeys(found))


def layers(text: str, option: str) -> list[int]:
    """Whole numbers, or spans of them such as ``2-6``.

    Raises:
        ConfigError: others, or too many.
    """
    found: list[int] = []
    for part in _parts(text, option):
        ends = numbers(part.replace("-", ",", 1), option)
        if not 0 <= ends[-1] - ends[0] < MOST:
            raise ConfigError(f"{part!r} is no span of layers; write e.g. 2-6", key=option)
        found += range(ends[0], ends[-1] + 1)
    return list(dict.fromkeys(found))


def words(text: str, key: str) -> list[Any]:
    """Values that a key of clients takes by the schema.

    Raises:
        ConfigError: another value.
    """
    return _among(text, _allowed(ClientConfig.model_fields[key].annotation), _OPTION[key])


def codecs(text: str, option: str) -> list[str]:
    """Codecs by name.

    Raises:
        ConfigError: one that is not known.
    """
    return _among(text, {name: name for name in discovery.names("wire.codecs")}, option)


def _among(text: str, allowed: Mapping[str, Any], option: str) -> list[Any]:
    found = []
    for part in _parts(text, option):
        if part not in allowed:
            raise ConfigError(f"{part!r} cannot be chosen{one_of(part, allowed)}", key=option)
        found.append(allowed[part])
    return list(dict.fromkeys(found))


def _allowed(annotation: Any) -> dict[str, Any]:
    if annotation is bool:
        return {"false": False, "true": True}
    inner = [each for each in get_args(annotation) if each is not type(None)]
    values = [value for each in inner for value in (get_args(each) or (each,))]
    return {str(value): value for value in values}


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(parts) > MOST:
        raise ConfigError(f"{text[:40]!r} is not a list of values with commas between", key=option)
    return parts
