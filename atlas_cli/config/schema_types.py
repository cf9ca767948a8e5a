"""The types that the schema gives keys: unions, sections, and what may stand at a path."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.strict_yaml import KeyPath

SCALARS = (str, int, float, bool)


def bare(annotation: Any) -> Any:
    """Without Annotated and ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif is_union(annotation) and len(rest := [a for a in get_args(annotation) if a is not type(None)]) == 1:
            annotation = rest[0]
        else:
            return annotation


def is_union(annotation: Any) -> bool:
    """Whether a value may have one of several types."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_section(annotation: Any) -> bool:
    """Whether it is a mapping with keys of the schema."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def branches(annotation: Any) -> Iterator[Any]:
    """The types that a value may have, each bare."""
    annotation = bare(annotation)
    if not is_union(annotation):
        yield annotation
        return
    for branch in get_args(annotation):
        yield from branches(branch)


def taken(path: KeyPath, of_keys: bool) -> Collection[type]:
    """Which scalars the schema takes at a path; of an unknown path any.

    Args:
        of_keys: what keys below the path may be, instead of its value.
    """
    found: list[Any] = [ExperimentConfig]
    for part in path:
        found = [below for each in found for below in _below(each, part)]
    if of_keys:
        keys = [str if is_section(each) else get_args(each)[0] for each in found if _has_keys(each)]
        found = [each for annotation in keys for each in branches(annotation)]
    kinds = {kind for each in found for kind in _scalars(each)}
    return kinds or SCALARS


def _below(annotation: Any, part: str | int) -> Iterator[Any]:
    if is_section(annotation):
        field = annotation.model_fields.get(str(part))
        yield from branches(field.annotation) if field is not None else ()
    elif get_origin(annotation) in (dict, list):
        yield from branches(get_args(annotation)[-1])


def _has_keys(annotation: Any) -> bool:
    return is_section(annotation) or get_origin(annotation) is dict


def _scalars(annotation: Any) -> Collection[type]:
    if get_origin(annotation) is Literal:
        return {type(each) for each in get_args(annotation)}
    if annotation is float:
        return (int, float)
    return (annotation,) if annotation in SCALARS else ()
