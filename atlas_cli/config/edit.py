"""Changes values in the text of a config and leaves the rest as it is, comments too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from atlas_cli.config import strict_yaml
from atlas_cli.config.dump import one_line

INDENT = 2


def edited(text: str, settings: Mapping[tuple[str, ...], Any]) -> str:
    """The text with these values, by path of keys: replaced where they are, added where they are not.

    A value is added in the style of its mapping, in braces or on a line of its own, after all that is there. The text
    must be one that loads.
    """
    for path, value in settings.items():
        text = _set(text, list(path), value)
    return text


def _set(text: str, path: list[str], value: Any) -> str:
    node = strict_yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    while True:
        name = path.pop(0)
        found = next((inner for key, inner in node.value if key.value == name), None)
        if found is None:
            for outer in reversed(path):
                value = {outer: value}
            return _add(text, node, f"{name}: {one_line(value)}")
        if not path or not isinstance(found, yaml.MappingNode):
            for outer in reversed(path):
                value = {outer: value}
            start, end = found.start_mark.index, _end(text, found)
            return f"{text[:start]}{_room(text, start)}{one_line(value)}{text[end:]}"
        node = found


def _room(text: str, start: int) -> str:
    """A space where a value without any text stands right behind its colon."""
    return " " if text[start - 1 : start] == ":" else ""


def _end(text: str, node: yaml.Node) -> int:
    """Where a value ends; a mapping in lines of its own ends, for YAML, only where the next key begins."""
    end: int = node.end_mark.index
    return node.start_mark.index + len(text[node.start_mark.index : end].rstrip())


def _add(text: str, node: yaml.MappingNode, entry: str) -> str:
    if node.flow_style:
        last = node.end_mark.index - 1  # its brace
        if not node.value:
            return f"{text[:last]}{entry}{text[last:]}"
        end = node.value[-1][1].end_mark.index
        return f"{text[:end]}, {entry}{text[end:]}"
    key, value = node.value[-1]
    line_end = text.find("\n", max(_end(text, value), key.end_mark.index))
    before = text if line_end < 0 else text[:line_end]
    rest = "\n" if line_end < 0 else text[line_end:]
    return f"{before}\n{' ' * key.start_mark.column}{entry}{rest}"
