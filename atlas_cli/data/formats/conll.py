"""CoNLL: a token a line with its tag in the last column, a blank line between sentences; and CoNLL-U.

A file of one column has tokens to be tagged.

Columns stand between tabs, or between spaces. A line that begins with ``#`` is a comment where sentences begin, unless
it looks like all other lines. CoNLL-U has the words in column 2 and no column of tags: its columns keep their names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from atlas_cli.data.formats.text import lines_of, read_text
from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError

Line = tuple[int, str]  # number and text

CONLLU = ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_ID = re.compile(r"\d+([-.]\d+)?")
_BLANKS = " \t"  # no-break spaces are part of a token


def read_conll(path: Path, key: str, notes: list[str]) -> Rows:
    """One row per sentence, with the columns tokens and, where there are any, tags; CoNLL-U keeps its own columns."""
    sentences = list(_sentences(path, key))
    tabs = _between_tabs(sentences, path, key)
    split = [[(number, _columns(text, tabs)) for number, text in sentence] for sentence in sentences]
    split, comments = _without_comments(split)
    if comments:
        notes.append(f"{path}: {comments} comment lines (#...) are no tokens")
    split = [sentence for sentence in split if sentence]
    if split and all(_numbered([columns[0] for _, columns in sentence]) for sentence in split):
        return _conllu(split, path, key)
    return _tagged(split, path, key)


def _sentences(path: Path, key: str) -> Iterator[list[Line]]:
    found: list[Line] = []
    for number, line in enumerate([*lines_of(read_text(path, key)), ""], start=1):
        if line.startswith("#begin document"):
            raise ConfigError(
                f"{path}:{number}: CoNLL-2012, with words in column 4; give lines of a word and its tag", key=key
            )
        text = line.rstrip(_BLANKS) if "\t" not in line else line
        if text.strip(_BLANKS) and not text.lstrip(_BLANKS).startswith("-DOCSTART-"):
            found.append((number, text))
        elif found:
            yield found
            found = []


def _between_tabs(sentences: list[list[Line]], path: Path, key: str) -> bool:
    """Whether columns stand between tabs.

    Raises:
        ConfigError: some lines have tabs and others have not.
    """
    lines = [line for sentence in sentences for line in sentence if not line[1].startswith("#")]
    without = [number for number, text in lines if "\t" not in text]
    if without and len(without) < len(lines):
        raise ConfigError(f"{path}:{without[0]}: no tab, but other lines have; separate all columns alike", key=key)
    return not without


def _columns(text: str, tabs: bool) -> list[str]:
    if tabs and "\t" in text:
        return [column.strip(_BLANKS) for column in text.split("\t")]
    return [column for column in re.split(f"[{_BLANKS}]+", text) if column]


def _without_comments(split: list[list[tuple[int, list[str]]]]) -> tuple[list[list[tuple[int, list[str]]]], int]:
    """Sentences less the comments that they begin with, and how many these are.

    ``# O`` may be a token and ``# id 17`` a comment: a comment has another number of columns than other lines, or a
    last column that is nobody's tag.
    """
    tokens = [columns for sentence in split for _, columns in sentence if not columns[0].startswith("#")]
    usual = Counter(map(len, tokens)).most_common(1)
    tags = {columns[-1] for columns in tokens}
    kept, comments = [], 0
    for sentence in split:
        start = 0
        for _, columns in sentence:
            alone = columns[0] == "#" or len(columns) == 1
            alike = bool(usual) and len(columns) == usual[0][0] and (len(columns) == 1 or columns[-1] in tags)
            if not columns[0].startswith("#") or not alone or alike:
                break
            start += 1
        kept.append(sentence[start:])
        comments += start
    return kept, comments


def _numbered(first: list[str]) -> bool:
    """Whether the first column of a sentence counts its words: 1, 2, ... with ranges (1-2) and empty nodes (1.1)."""
    whole = [name for name in first if name.isdigit()]
    return all(map(_ID.fullmatch, first)) and whole == [str(i) for i in range(1, len(whole) + 1)] and bool(whole)


def _conllu(split: list[list[tuple[int, list[str]]]], path: Path, key: str) -> Rows:
    rows = []
    for sentence in split:
        for number, columns in sentence:
            if len(columns) != len(CONLLU):
                raise ConfigError(
                    f"{path}:{number}: column 1 counts the words, but CoNLL-U has {len(CONLLU)} columns between tabs,"
                    f" not {len(columns)}; take column 1 out, or give CoNLL-U",
                    key=key,
                )
        words = [columns for _, columns in sentence if columns[0].isdigit()]
        rows.append({name: [columns[i] for columns in words] for i, name in enumerate(CONLLU)})
    return rows


def _tagged(split: list[list[tuple[int, list[str]]]], path: Path, key: str) -> Rows:
    rows = []
    width = len(split[0][0][1]) if split else 0
    widest = max((len(columns) for sentence in split for _, columns in sentence), default=0)
    for sentence in split:
        for number, columns in sentence:
            if len(columns) < 2 <= widest:
                raise ConfigError(f"{path}:{number}: expected a token and a tag, found {columns[0]!r} alone", key=key)
            if len(columns) != width:
                raise ConfigError(
                    f"{path}:{number}: {len(columns)} columns, but the lines before have {width}; put tabs between"
                    " columns where a token holds spaces",
                    key=key,
                )
        places = {"tokens": 0, "tags": -1} if width > 1 else {"tokens": 0}
        rows.append({name: [columns[place] for _, columns in sentence] for name, place in places.items()})
    return rows
