"""The tail of an error message that names the nearest valid word."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath

LONGEST = 100  # of a word that is compared: the comparison is quadratic
MOST = 2000  # words that it is compared with, those of the nearest lengths
LISTED = 20


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """``; did you mean rank?`` when something is near, else what is valid; of many, the first and how many."""
    options = sorted(valid)
    near = _nearest(word, options)
    return f"; did you mean {near}?" if near else f"; expected one of: {_listed(options)}"


def one_of(word: str, valid: Iterable[str]) -> str:
    """``; expected one of: int8, nf4; did you mean nf4?``: of values all are told, for the nearest in letters may be
    another in meaning."""
    options = sorted(valid)
    near = _nearest(word, options)
    return f"; expected one of: {_listed(options)}" + (f"; did you mean {near}?" if near else "")


def _nearest(word: str, options: list[str]) -> str | None:
    compared = sorted(options, key=lambda option: abs(len(option) - len(word)))[:MOST] if len(word) <= LONGEST else []
    return next(iter(get_close_matches(word, compared, n=1, cutoff=0.6)), None)


def _listed(options: list[str]) -> str:
    more = f", ... ({len(options):,} in all)" if len(options) > LISTED else ""
    return f"{', '.join(options[:LISTED])}{more}"


def near_file(name: str, names: Iterable[str]) -> str | None:
    """The nearest of file names by what stands before the suffix, which alike files share; of several, the one with
    the same suffix."""
    suffix, stem = PurePath(name).suffix, PurePath(name).stem
    if len(stem) > LONGEST:
        return None
    by_stem: dict[str, str] = {}
    for each in sorted(names, key=lambda each: (PurePath(each).suffix != suffix, abs(len(each) - len(name))))[:MOST]:
        by_stem.setdefault(PurePath(each).stem, each)
    near = get_close_matches(stem, by_stem, n=1, cutoff=0.6)
    return by_stem[near[0]] if near else None
