"""Turns schema errors into sentences: what was expected, what was given, and which key was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from atlas_cli.config.odd_characters import odd_character
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema_types import bare, branches, is_section, is_union
from atlas_cli.config.strict_yaml import KeyPath, dotted
from atlas_cli.config.what_to_write import instead, is_none, is_valid
from atlas_cli.printable import listed
from atlas_cli.suggest import did_you_mean, one_of

MOVED = {
    ("privacy", "compress"): "is now said by kind of message; write wire: {activations: {codec: int8}, gradients: "
    "{codec: int8}} (or bfloat16), or remove it where it is none"
}
HINTED = 1000  # with more problems than that, what was meant is not looked for


class Problem(NamedTuple):
    """One thing wrong with one key; ``whole`` messages name the key themselves."""

    path: KeyPath
    message: str
    whole: bool = False


def from_validation(error: ValidationError, data: dict[Any, Any]) -> list[Problem]:
    """One problem for every key that the schema refused: the branches of a union become one, and a required key that is
    only misspelt is not missing as well."""
    found: dict[KeyPath, Problem] = {}
    details = error.errors(include_url=False)
    hints = len(details) <= HINTED
    places = [_locate(detail["loc"], detail["type"], data) for detail in details]
    pairs = list(zip(details, places, strict=True))
    unknown = [place.path for d, place in pairs if place is not None and d["type"] == "extra_forbidden"]
    misspelt = set(map(_meant, unknown)) if hints else set()
    for detail, place in pairs:
        if place is None or (detail["type"] == "missing" and place.path in misspelt):
            continue
        if place.path not in found:
            found[place.path] = _problem(place, detail, hints)
    return list(found.values())


def describe_type(annotation: Any) -> str:
    """A type in words: ``an integer or a mapping of integers to integers``."""
    annotation = bare(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if is_union(annotation):
        return " or ".join(describe_type(arg) for arg in args if arg is not type(None))
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is list:
        return "a list"
    if origin is dict:
        return "a mapping such as {0: 8, 1: 16}" if args[0] is int else "a mapping"
    words = {int: "an integer", str: "text", float: "a number", bool: "true or false"}
    return words.get(annotation, "'key: value' lines")


def describe_value(value: Any) -> str:
    """A value in words: ``'2' (text)``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (not quoted)"
    if isinstance(value, str):
        return f"{value!r} (text)" if len(value) <= 60 else f"{value[:60]!r}... (text)"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return str(value)[:60]


class _Place(NamedTuple):
    path: KeyPath
    annotation: Any  # what the schema wants at the path
    value: Any
    is_key: bool = False  # the name of the key itself is wrong
    is_union: bool = False  # no branch of the union takes such a value
    field: FieldInfo | None = None  # of a key of a section


def _takes(branch: Any, value: Any) -> bool:
    """Whether a branch of a union is meant for such values."""
    return isinstance(value, dict) if is_section(branch) else get_origin(branch) is type(value)


def _locate(loc: tuple[str | int, ...], kind: str, data: Any) -> _Place | None:
    """Follow an error's location, in which pydantic mixes keys with names of union branches.

    None for the errors of a branch that the value was not meant for.
    """
    annotation: Any = ExperimentConfig
    parent: Any = None
    value: Any = data
    path: KeyPath = ()
    field: FieldInfo | None = None
    for i, part in enumerate(loc):
        annotation = bare(annotation)
        if is_union(annotation):
            branch = next((a for a in map(bare, get_args(annotation)) if _takes(a, value)), None)
            if branch is None:
                return _Place(path, annotation, value, is_union=True, field=field)
            name = branch.__name__ if is_section(branch) else f"{type(value).__name__}["
            if not str(part).startswith(name):
                return None
            annotation = branch
            continue
        is_marker = get_origin(parent) is dict and i == len(loc) - 1 and kind != "extra_forbidden"
        if part == "[key]" and is_marker:  # else it is a key of the file that happens to have this name
            return _Place(path, get_args(parent)[0], path[-1], is_key=True)
        parent, path = annotation, (*path, part)
        if is_section(parent):
            field = parent.model_fields.get(str(part))
            annotation = field.annotation if field else parent
        else:
            field, annotation = None, get_args(parent)[-1]
        here = isinstance(value, dict) and part in value
        value = value[part] if here or isinstance(value, list) else None
    return _Place(path, annotation, value, field=field)


def _problem(place: _Place, detail: Any, hints: bool) -> Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    path, value = place.path, place.value
    if kind == "extra_forbidden" and path in MOVED:
        return Problem(path, MOVED[path])
    if kind in ("extra_forbidden", "invalid_key"):
        meant = _meant_by(path, value) if hints else ""
        return Problem(
            path, f"{dotted(path)} is not a known key{meant} (atlas config schema lists all keys)", whole=True
        )
    if place.is_key and kind == "int_type":
        hint = instead(int, None, value) or "; write an entry for each number"
        return Problem(path, f"keys here are whole numbers, got {describe_value(value)}{hint}")
    if place.is_key and kind == "string_type":
        return Problem(path, f'names are text; write "{value}" in quotes')
    if kind == "missing":
        return Problem(path, "is missing")
    if kind == "value_error":
        optional = is_none(value) and place.field is not None and is_valid(place.field, None)
        return Problem(path, f"{context['error']}{'; for none write null' if optional else ''}")
    if kind == "literal_error" and isinstance(value, str) and not place.is_union:
        return Problem(path, f"{describe_value(value)} is not known{one_of(value, _choices(place.annotation))}")
    if kind.endswith(("_type", "literal_error")):
        wanted, hint = bare(place.annotation), ""
        if is_section(wanted):
            hint = _within(wanted, value)
        elif bare(place.annotation) is str and isinstance(value, bool):
            hint = f'; write "{str(value).lower()}" or "{value}" in quotes'
        elif bare(place.annotation) is str and isinstance(value, float):
            hint = "; put it in quotes"  # as it was written, which is not known any more
        elif bare(place.annotation) is str and isinstance(value, int):
            hint = f'; write "{value}" in quotes'
        elif get_origin(wanted) is dict and isinstance(value, list) and get_args(wanted)[0] is not int:
            hint = "; write a line 'NAME: ...' for each"
        elif hints:
            hint = instead(place.annotation, place.field, value)
        return Problem(path, f"expected {describe_type(place.annotation)}, got {describe_value(value)}{hint}")
    return Problem(
        path,
        _out_of_range(kind, context, path, value)
        or f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {describe_value(value)}",
    )


def _within(section: type[BaseModel], value: object) -> str:
    """What to write where a section was given one value: the first key that takes it, else which keys there are."""
    if is_none(value) and not any(field.is_required() for field in section.model_fields.values()):
        return "; write {} for its defaults, or remove it"
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 60):
        for name, field in section.model_fields.items():
            is_text = isinstance(value, str) and str in branches(field.annotation)  # which takes any
            if is_valid(field, value) and not is_text:
                return f"; write {{{name}: {str(value).lower() if isinstance(value, bool) else value}}}"
    return f"; its keys are {listed(section.model_fields, 8)}"


def _choices(annotation: Any) -> list[str]:
    return [str(choice) for choice in get_args(bare(annotation))]


def _out_of_range(kind: str, context: dict[str, Any], path: KeyPath, value: Any) -> str | None:
    bounds = {
        "greater_than_equal": "at least",
        "greater_than": "greater than",
        "less_than_equal": "at most",
        "less_than": "less than",
    }
    symbol = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
    if kind in bounds:
        return f"must be {bounds[kind]} {context[symbol[kind]]:g}, got {describe_value(value)}"
    if kind == "too_short":
        need, have = context["min_length"], context["actual_length"]
        return f"must have at least {need} entr{'y' if need == 1 else 'ies'}, got {have}"
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries, got {context['actual_length']}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters, got {len(value)}"
    if kind == "string_pattern_mismatch" and path == ("device",):
        return f"{describe_value(value)} is not a device; write auto, cpu, mps, cuda or cuda:0"
    if kind == "string_pattern_mismatch":
        rule = "a name starts with a letter or digit and holds only those, '.', '_' and '-'"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("._-")
        return f"{describe_value(value)}: {rule}{f'; write {name}' if name and len(name) <= 60 else ''}"
    return None


def _model_at(path: KeyPath) -> type[BaseModel]:
    annotation: Any = ExperimentConfig
    for part in path:
        annotation = _section_in(annotation)
        is_model = is_section(annotation)
        annotation = annotation.model_fields[str(part)].annotation if is_model else get_args(annotation)[-1]
    found: type[BaseModel] = _section_in(annotation)
    return found


def _section_in(annotation: Any) -> Any:
    """The type, or of a union the section in it."""
    return next(filter(is_section, branches(annotation)), bare(annotation))


def _meant_by(path: KeyPath, value: object) -> str:
    """What an unknown key was meant to be: another key, or a key and its value that YAML did not tell apart."""
    word = str(path[-1])
    if odd := odd_character(word):
        return f": it holds {odd}"
    found = re.fullmatch(r"([\w-]+)(?:\s*[:=]\s*|\s+)(\S.*)", word)
    known = _model_at(path[:-1]).model_fields
    if value is None and found is not None and found[1] in known:
        return f"; write {found[1]}: {found[2]}, with ':' and a space"
    hint = _suggest(path)
    if value is None and "did you mean" not in hint:
        hint += "; if it belongs to the value before it, write that in quotes, or a list as [a, b]"
    return hint


def _suggest(path: KeyPath) -> str:
    """The key that was meant: the same word in another section, else the nearest in this one."""
    *above, word = path
    here = _model_at(tuple(above))
    elsewhere = [*_with_key(here, str(word), tuple(above)), *_with_key(ExperimentConfig, str(word), ())]
    if elsewhere:
        return f"; did you mean {' or '.join(dict.fromkeys(elsewhere[:2]))}?"
    return did_you_mean(str(word), here.model_fields)


def _meant(path: KeyPath) -> KeyPath | None:
    """Path of the key of the same section that a misspelt one stands for, if one is near."""
    *above, word = path
    fields = _model_at(tuple(above)).model_fields
    tail = did_you_mean(str(word), fields)
    return next(((*above, name) for name in fields if tail == f"; did you mean {name}?"), None)


def _with_key(model: type[BaseModel], word: str, above: KeyPath) -> Iterable[str]:
    for name, field in model.model_fields.items():
        section = bare(field.annotation)
        if is_section(section):
            if word in section.model_fields:
                yield dotted((*above, name, word))
            yield from _with_key(section, word, (*above, name))
