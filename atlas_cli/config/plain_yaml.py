"""Plain YAML in a tenth of the time: by the events of libyaml's parser, where PyYAML was built with it.

What is read here are mappings, lists and scalars without anchors, tags and traps. All else, errors included, is left to
the strict reader, which says what is wrong with it. libyaml and PyYAML's own parser take a few texts otherwise, or not
both: those with tabs, with line ends or other characters that are no part of ASCII lines, with ``?``, ``!``, ``|`` or
``>``, and with directives. Such texts are left to the strict reader, too, wherever in them these characters are.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from atlas_cli.config.yaml_scalars import MERGE, TEXT, Trap, patterns, value_of

KeyPath = tuple[str | int, ...]
Found = tuple[Any, dict[KeyPath, int]]

_APART = re.compile("[\t\r\x85\u2028\u2029\ufeff?!|>]|^%", re.MULTILINE)
_WHOLE = re.compile("[1-9][0-9]{0,17}").fullmatch  # the most frequent of long texts
_PATTERNS = patterns()
_NO_KEY = object()


def plain_data(text: str, depth: int) -> Found | None:
    """The data of a text, and the line (from 1) of each key and item by its path; None where it is not plain.

    Args:
        text: one YAML document.
        depth: how deep it may be nested.
    """
    if not yaml.__with_libyaml__ or _APART.search(text):
        return None
    try:
        return _built(yaml.CSafeLoader(text), depth)
    except (yaml.YAMLError, Trap, ValueError, OverflowError):  # the strict reader says what it is
        return None


def _built(parser: Any, depth: int) -> Found | None:
    """Mappings and lists are filled as events come, without recursion: nested deeply, nodes would end the process."""
    lines: dict[KeyPath, int] = {}
    above: list[tuple[Any, KeyPath, Any]] = []  # the collections around, each with its path and the key it waits with
    top: list[Any] = []  # the value of each document
    inside: Any = top
    path: KeyPath = ()
    key: Any = _NO_KEY
    while (event := parser.get_event()) is not None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            value = _scalar(event)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            value = {} if kind is yaml.MappingStartEvent else []
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            inside, path, key = above.pop()
            continue
        elif kind is yaml.AliasEvent:
            return None
        else:
            continue  # where the text and its documents begin and end
        if event.anchor or event.tag:
            return None
        if type(inside) is dict:
            if key is _NO_KEY:
                if type(value) not in (str, int) or value in inside or _is_merge(event):
                    return None
                key = value
                lines[*path, key] = event.start_mark.line + 1
                continue
            here, inside[key], key = (*path, key), value, _NO_KEY
        elif above:
            here = (*path, len(inside))
            lines[here] = event.start_mark.line + 1
            inside.append(value)
        else:
            here = ()
            top.append(value)
        if kind is not yaml.ScalarEvent:
            if len(here) >= depth:
                return None
            above.append((inside, path, key))
            inside, path, key = value, here, _NO_KEY
    return (top[0], lines) if len(top) == 1 else None


def _scalar(event: Any) -> Any:
    text = event.value  # of UTF-8, so that it has no half of a surrogate pair
    if not event.implicit[0]:
        return text
    if _WHOLE(text):
        return int(text)
    tag = _tag(text)
    return text if tag == TEXT else value_of(text, tag)


def _tag(text: str) -> str:
    return next((tag for tag, pattern in _PATTERNS.get(text[:1], ()) if pattern.match(text)), TEXT)


def _is_merge(event: Any) -> bool:
    return bool(event.implicit[0]) and _tag(event.value) == MERGE
