"""YAML without its traps: what looks like a number is one, ``no`` is text, and nothing is lost in silence.

Plain data only: text, integers, finite numbers, true/false, null, lists and mappings. ``1e-4`` is a number; ``no``,
``on``, ``12:30`` and ``2024-01-01`` are text; ``010``, ``.inf``, duplicate keys, tags and merge keys are errors with
their line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from atlas_cli.config.examples import examples
from atlas_cli.config.plain_yaml import KeyPath, plain_data
from atlas_cli.config.yaml_errors import syntax_error
from atlas_cli.config.yaml_scalars import ANY, LOCAL, MERGE, PREFIX, Scalar, Trap, patterns, quoted, value_of
from atlas_cli.cycle_collection import without_collection
from atlas_cli.errors import ConfigError
from atlas_cli.suggest import near_file

MAX_REPEATS = 10_000  # values that aliases may add: a few lines of nested aliases can stand for billions
MAX_DEPTH = 50


Takes = Callable[[KeyPath, bool], Collection[type]]  # of a value at a path, or of the keys below it if true


def _anything(path: KeyPath, is_key: bool) -> Collection[type]:
    return ANY


class Document(NamedTuple):
    """Plain data, and the line (from 1) of every key and list item by its path of keys and positions."""

    data: Any
    lines: dict[KeyPath, int]


def dotted(path: KeyPath) -> str:
    """``clients.phone-1.rank``: a path as messages show it; parts that cannot be printed are quoted."""
    parts = list(map(str, path))
    text = ".".join(parts)
    return text if text.isprintable() else ".".join(part if part.isprintable() else repr(part) for part in parts)


def load_file(path: Path, takes: Takes = _anything) -> Document:
    """Read a YAML file whose top level is a mapping.

    Args:
        takes: as of ``parse``.

    Raises:
        ConfigError: the file is not there (with the nearest name), cannot be read, is not UTF-8, or is not strict YAML.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"no such file{_nearest_file(path)}", where=str(path)) from None
    except IsADirectoryError:
        raise ConfigError("is a folder; expected a YAML file", where=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at byte {error.start}; save the file as UTF-8", where=str(path)) from None
    document = parse(text, str(path), takes)
    if document.data is None:
        raise ConfigError("is empty; atlas init MODEL prints a config to start from", where=str(path))
    if not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, list) else "a single value"
        raise ConfigError(f"expected 'key: value' lines at the top level, got {kind}", where=f"{path}:1")
    return document


def parse(text: str, source: str, takes: Takes = _anything) -> Document:
    """Parse one YAML document.

    Args:
        source: the file name in messages.
        takes: which of text, whole and other numbers may stand at a path, for what messages say to write.

    Raises:
        ConfigError: not YAML, or one of the traps; ``where`` is ``source:line``.
    """
    text = text.removeprefix("\ufeff")
    with without_collection():
        found = plain_data(text, MAX_DEPTH)
        return _strictly(text, source, takes) if found is None else Document(*found)


def _strictly(text: str, source: str, takes: Takes) -> Document:
    try:
        node = compose(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character {error.character!r} is not printable; remove it"
        if isinstance(error.character, int):
            message = (
                f"character U+{error.character:04X} is not printable; remove it, or write it as an escape in quotes"
            )
            if (
                0xDC80 <= error.character <= 0xDCFF
            ):  # how Python passes on a byte of the command line that it cannot read
                byte = error.character - 0xDC00
                message = f"byte 0x{byte:02x} is no text in this locale; set PYTHONUTF8=1, or rename the file"
        raise ConfigError(message, where=f"{source}:{line}") from None
    except yaml.MarkedYAMLError as error:
        raise syntax_error(error, text, source) from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=source) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. an escape beyond the last character
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}", where=source) from None
    reader = _Reader(source, takes)
    return Document(None if node is None else reader.value(node, ()), reader.lines)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = patterns()


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text, with their places in it."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Reader:
    """Turns nodes into plain data and notes the lines."""

    def __init__(self, source: str, takes: Takes) -> None:
        self.source, self.takes = source, takes
        self.lines: dict[KeyPath, int] = {}
        self.seen: set[int] = set()
        self.inside: set[int] = set()
        self.repeats = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if id(node) in self.inside:
            line = self.lines.get(path, node.start_mark.line + 1)
            text = f"an alias (*) of the value that it is in, which begins on line {node.start_mark.line + 1}"
            raise self.error(node, path, f"{text}; write the value out", line)
        if len(path) > MAX_DEPTH:
            raise self.error(node, path[:3], f"nested more than {MAX_DEPTH} deep; no key of a config is")
        self.repeats += id(node) in self.seen
        self.seen.add(id(node))
        if self.repeats > MAX_REPEATS:
            raise self.error(node, path[:3], f"aliases stand for more than {MAX_REPEATS} values; write them out")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.inside.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == PREFIX + "map":
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == PREFIX + "seq":
                return [self.item(child, (*path, i)) for i, child in enumerate(node.value)]
        finally:
            self.inside.discard(id(node))
        raise self.error(node, path, f"tag {node.tag} is not supported; write plain values")

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str | int, Any]:
        out: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                raise self.error(key_node, path, "merge keys (<<) are not supported; write the keys out")
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, path, "a key must be text or a whole number, not a list or a mapping")
            key = self.scalar(key_node, path, is_key=True)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise self.error(key_node, path, f"a key must be text: write {quoted(key_node.value)}")
            here = (*path, key)
            if key in out:
                raise self.error(key_node, here, f"duplicate key; it is already on line {self.lines[here]}")
            self.lines[here] = key_node.start_mark.line + 1
            out[key] = self.value(value_node, here)
        return out

    def scalar(self, node: yaml.ScalarNode, path: KeyPath, is_key: bool = False) -> Scalar:
        if node.tag.startswith("!") and node.tag not in LOCAL:
            text = quoted(f"{node.tag} {node.value}".strip())
            raise self.error(node, path, f"tag {node.tag} is not supported; if it is text, write {text}")
        try:
            return value_of(node.value, node.tag)
        except Trap:
            pass
        try:  # again, as what may stand here is looked up for messages alone
            return value_of(node.value, node.tag, self.takes(path, is_key))
        except Trap as trap:
            raise self.error(node, path, str(trap)) from None

    def error(self, node: yaml.Node, path: KeyPath, message: str, line: int | None = None) -> ConfigError:
        where = f"{self.source}:{node.start_mark.line + 1 if line is None else line}"
        return ConfigError(message, key=dotted(path) or None, where=where)


def _nearest_file(path: Path) -> str:
    folders = (path.parent, path.parent / "configs")
    found = {file.name: str(file) for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if path.name == str(path) and not path.suffix:
        found |= {name: name for name in examples()}
    near = near_file(path.name, found)
    if path.stem in examples() and path.suffix in (".yaml", ".yml") and (near is None or Path(near).stem != path.stem):
        return f"; did you mean the example {path.stem}? (atlas train {path.stem})"
    return f"; did you mean {found[near]}?" if near else ""
