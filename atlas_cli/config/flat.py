"""Configs as dotted keys with their values, and the keys in which several of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_COMPARED = ("output", "name", "trackers")  # where a run is, what it is called, and who is told of it


def flat(value: object, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; an empty mapping is a value, too."""
    if isinstance(value, Mapping) and value:
        return {key: v for name, inner in value.items() for key, v in flat(inner, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): value}


def differing(configs: Sequence[Mapping[str, Any]], *, but: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The keys in which configs differ, in their order, with the value of each config; None where one lacks the key.

    Args:
        but: keys and sections that are passed over.
    """
    flats = [flat(config) for config in configs]
    keys = dict.fromkeys(key for each in flats for key in each)
    found = {key: [each.get(key) for each in flats] for key in keys if not is_in(key, but)}
    return {key: values for key, values in found.items() if len({repr(value) for value in values}) > 1}


def is_in(key: str, sections: Sequence[str]) -> bool:
    """Whether a key is one of these, or in one of these sections."""
    return any(key == each or key.startswith(f"{each}.") for each in sections)
