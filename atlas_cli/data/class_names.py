"""Checks of class names: spellings of missing values, numbers on a scale, and near-equal names."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, combinations

from atlas_cli.data.rows import Rows
from atlas_cli.errors import ConfigError

# what pandas reads as a missing value, so that other programs write it, and Excel's errors
MISSING = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
MISSING |= {
    "NULL",
    "NaN",
    "NaT",
    "None",
    "n/a",
    "nan",
    "null",
    "#REF!",
    "#NAME?",
    "#VALUE!",
    "#DIV/0!",
    "#NULL!",
    "#NUM!",
}
UNLABELLED = MISSING | {"-100"}  # what losses ignore, so that tags of subwords have it in prepared data
FEWEST_LABELS = 20  # of fewer, more than half may well be different
SHOWN = 20  # classes that a line names
SHOWN_PAIRS = 5

Counts = Mapping[str, int]
LabelsIn = Callable[[Mapping[str, object]], Iterable[str]]


def count_labels(rows: Rows, labels_in: LabelsIn) -> Counter[str]:
    """How often each label occurs in the rows; labels of tokens are counted per token."""
    return Counter(chain.from_iterable(map(labels_in, rows)))


def counts_sentence(counts: Counts) -> str:
    """``spam 747, ham 120``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(f"{name} {count:,}" for name, count in ordered[:SHOWN]) + more


def require_names(rows: Rows, labels_in: LabelsIn, part: str, key: str) -> None:
    """Refuse labels that are not listed as classes and that cannot be names of classes.

    Raises:
        ConfigError: a label is a spelling of a missing value, or labels are numbers on a scale.
    """
    counts = count_labels(rows, labels_in)
    if missing := [name for name in counts if name in UNLABELLED]:
        number = next(i for i, row in enumerate(rows, start=1) if missing[0] in labels_in(row))
        others = "" if len(missing) == 1 else f" (also {', '.join(map(repr, missing[1:6]))})"
        raise ConfigError(
            f"row {number} of the {part} has the label {missing[0]!r}{others}, as programs write a missing value"
            f" ({sum(counts[name] for name in missing)} in all); fill it or drop the row, or list all classes, this one"
            " too, under classes",
            key=key,
        )
    numbers = [_number(name) for name in counts]
    if any(number is not None and number != int(number) for number in numbers) and None not in numbers:
        first, second = list(counts)[:2] if len(counts) > 1 else [next(iter(counts))] * 2
        raise ConfigError(
            f"the labels of the {part} are numbers with decimals, such as {first} and {second}: {len(counts)} different"
            f" ones in {counts.total()} rows would be as many classes. Use task: regression to predict numbers, or"
            " round them into a few classes in the file; if they are classes, list them under classes",
            key=key,
        )


def require_few(rows: Rows, labels_in: LabelsIn, key: str) -> None:
    """Refuse labels of the training data of which more than half are different: they are no classes.

    Raises:
        ConfigError: they are; says which task they are for.
    """
    counts = count_labels(rows, labels_in)
    if counts.total() < FEWEST_LABELS or 2 * len(counts) <= counts.total():
        return
    if all(_number(name) is not None for name in counts):
        fits = "task: regression predicts numbers"
    elif sum(any(mark in name for mark in ",;|") for name in counts) > len(counts) / 2:
        fits = "if they are several classes each, use task: multi-label"
    elif sum(" " in name for name in counts) > len(counts) / 2:
        fits = "task: instruction learns to write texts (prompt and response)"
    else:
        fits = "name the column of the classes"
    raise ConfigError(
        f"{counts.total():,} labels of the training data are {len(counts):,} different ones, such as"
        f" {', '.join(f'{name!r:.40}' for name in list(counts)[:2])}: more than half; {fits}; if they are classes, list"
        " them under classes",
        key=key,
    )


def class_notes(counts: Counts) -> Iterator[str]:
    """What looks wrong with class names, one sentence per finding."""
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(normal_form(name), []).append(name)
    pairs = [pair for names in alike.values() for pair in combinations(names, 2)]
    for a, b in pairs[:SHOWN_PAIRS]:
        yield (
            f"classes {a!r} ({counts[a]:,}) and {b!r} ({counts[b]:,}) differ only in {difference(a, b)}; if they are"
            " one class, spell it alike in the data"
        )
    if len(pairs) > SHOWN_PAIRS:
        yield f"{len(pairs) - SHOWN_PAIRS} more pairs of classes differ as little"
    if {"-1", "0"} <= counts.keys():
        yield (
            f"class '-1' ({counts['-1']:,}) stands beside '0': Hugging Face data sets write -1 where a row has no"
            " label; if it is none, drop these rows"
        )


def text_notes(rows: Rows, fields: Iterable[str]) -> Iterator[str]:
    """Notes on texts that are spellings of a missing value, and on rows without an optional text."""
    for field in fields:
        values = [row.get(field) for row in rows]
        if None in values and (absent := sum(field not in row for row in rows)):
            yield f"{absent:,} of {len(rows):,} rows have no {field} and are read without one"
        texts = values if set(map(type, values)) == {str} else [value for value in values if isinstance(value, str)]
        if counts := Counter() if MISSING.isdisjoint(texts) else Counter(text for text in texts if text in MISSING):
            yield f"{counts.total()} rows have no {field} but a word for a missing one: {counts_sentence(counts)}"


_FORMS: dict[str, Callable[[str], str]] = {
    "white space": lambda name: " ".join(name.split()),
    "Unicode form (NFC and NFD)": lambda name: unicodedata.normalize("NFC", name),
    "characters that are not seen": lambda name: "".join(c for c in name if unicodedata.category(c) != "Cf"),
    "case": str.casefold,
    "look-alike characters": lambda name: unicodedata.normalize("NFKC", name),
}


def normal_form(name: str) -> str:
    """The normal form of a name, which near-equal names share."""
    if not name.isascii():
        for form in _FORMS.values():
            name = form(name)
    name = " ".join(name.split()).casefold()
    number = _number(name)
    return name if number is None else repr(number + 0.0)


def difference(a: str, b: str) -> str:
    """What near-equal names differ in."""
    if (number := _number(a)) is not None and number == _number(b):
        return "how the number is written"
    return next((what for what, form in _FORMS.items() if form(a) == form(b)), "case, white space and Unicode form")


def _number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
