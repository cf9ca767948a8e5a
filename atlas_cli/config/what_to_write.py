"""What to write instead of a value that the schema refused: the value that was probably meant, in the schema's form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from atlas_cli.config.odd_characters import with_plain_spaces
from atlas_cli.config.schema_types import branches

_TRUTH = {word: True for word in ("yes", "y", "on", "true", "enabled")} | {
    word: False for word in ("no", "n", "off", "false", "disabled")
}
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:([,_' ])\d{3})(?:\1\d{3})*").fullmatch
_BASED = re.compile(r"0(?:x[0-9a-f]+|o[0-7]+|b[01]+)", re.IGNORECASE).fullmatch
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE).fullmatch
_SHOWN = 60  # characters of what is to be written


def instead(annotation: Any, field: FieldInfo | None, value: object) -> str:
    """``; write 31``: what stands for the refused value and is valid; of one that is left out or unknown, the default
    or an example; "" where nothing can be said.

    Args:
        annotation: the type that was wanted.
        field: of the schema, where the value is that of a key of a section; it knows bounds and the default.
    """
    for meant in _meant(annotation, value):
        if is_valid(annotation if field is None else field, meant):
            text = _as_yaml(meant)
            return f"; write {text}" if len(text) <= _SHOWN else ""
    default = PydanticUndefined if field is None else field.get_default(call_default_factory=False)
    known = default is not PydanticUndefined and default is not None and not isinstance(default, BaseModel)
    if is_none(value) and field is not None and not field.is_required():
        return f"; write one, or remove the key for its default{f', {_as_yaml(default)}' if known else ''}"
    if isinstance(value, float) and int in branches(annotation) and abs(value) < 1e15:
        below = int(value // 1)
        return f"; write {below} or {below + 1}"
    if isinstance(value, str) and "$" in value:
        return "; a config has no variables: write the value, or set the key on the command line"
    shown = known and isinstance(default, int | float | str) and not isinstance(default, bool)
    return f"; write e.g. {_as_yaml(default)}" if shown else ""


def is_valid(annotation: Any, value: object) -> bool:
    """Whether a type, or a field of a section with its bounds, takes a value."""
    wanted = annotation.rebuild_annotation() if isinstance(annotation, FieldInfo) else annotation
    try:
        TypeAdapter(wanted, config=ConfigDict(strict=True)).validate_python(value)
    except (ValidationError, PydanticUserError):
        return False
    return True


def _meant(annotation: Any, value: object) -> Iterator[object]:
    """What a value may stand for, the likeliest first."""
    kinds = list(branches(annotation))
    if isinstance(value, str):
        text = with_plain_spaces(value).replace("\u2212", "-").strip(" ,;'\"\u2018\u2019\u201c\u201d")
        lower = text.lower()
        if bool in kinds and lower in _TRUTH:
            yield _TRUTH[lower]
        if int in kinds or float in kinds:
            yield from _numbers(text)
        for choice in (each for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)):
            if str(choice).lower().replace("_", "-") == lower.replace("_", "-"):
                yield choice
        if any(get_origin(kind) is list for kind in kinds) and text:
            yield [part for part in re.split(r"[,\s]+", text.strip("()[]")) if part]
        if lower in ("none", "nil"):
            yield None
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int | float):
        if bool in kinds and value in (0, 1):
            yield bool(value)
        if value == value // 1 and abs(value) < 1e15:
            yield int(value)
        if any(get_origin(kind) is list for kind in kinds):
            yield [value]
    elif isinstance(value, list):
        if len(value) == 1:
            yield value[0]
        if any(get_origin(kind) is dict and get_args(kind)[0] is int for kind in kinds):
            yield dict(enumerate(value))


def _numbers(text: str) -> Iterator[int | float]:
    if len(text) > _SHOWN:
        return
    if found := _GROUPED(text):
        yield int(text.replace(found[1], ""))
    elif _BASED(text):
        yield int(text, 0)
    elif re.fullmatch(r"[-+]?_*\d[\d_]*", text):
        yield int(text.replace("_", ""))
    if found := re.fullmatch(r"(\d{1,9}) ?[A-Za-z]+", text):
        yield int(found[1])
    decimal = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    share = decimal.removesuffix("%").strip()
    if _NUMBER(share):
        number = float(share) / (100 if decimal.endswith("%") else 1)
        yield from [int(number), number] if number == number // 1 else [number]
    if found := re.fullmatch(r"(\d{1,9})\s*/\s*(\d{1,9})", text):
        yield from [round(int(found[1]) / int(found[2]), 6)] if int(found[2]) else []


def is_none(value: object) -> bool:
    """Whether it is nothing, or a word for it that YAML takes as text."""
    return value is None or (isinstance(value, str) and value.lower() in ("none", "nil"))


def _as_yaml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_as_yaml(each)}' for key, each in value.items())}}}"
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) else json.dumps(value)
