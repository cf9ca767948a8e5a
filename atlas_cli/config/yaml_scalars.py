"""What plain scalars of YAML stand for here: which text is a number, true or false, null, or a trap."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

MAX_DIGITS = 300  # of a number: what is longer fits into no float

PREFIX = "tag:yaml.org,2002:"
TEXT, MERGE = PREFIX + "str", "!merge"
_LEADING_ZERO, _NOT_FINITE = "!leading-zero", "!not-finite"
LOCAL = (MERGE, _LEADING_ZERO, _NOT_FINITE)  # tags that no file can have meant

# Tag, pattern and first characters of plain scalars; the first match wins. Everything else is text.
RESOLVERS = [
    (PREFIX + "null", r"~|null|Null|NULL|", [*"~nN", ""]),
    (PREFIX + "bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    (_LEADING_ZERO, r"[-+]?0[0-9]+", [*"-+0"]),
    (PREFIX + "int", r"[-+]?(?:0|[1-9][0-9]*)", [*"-+0123456789"]),
    (PREFIX + "float", r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    (_NOT_FINITE, r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", [*"-+."]),
    (MERGE, r"<<", ["<"]),
]

Scalar = str | int | float | bool | None


ANY = frozenset((str, int, float, bool))


class Trap(ValueError):
    """A scalar that is refused; its text says why."""


def value_of(text: str, tag: str, takes: Collection[type] = ANY) -> Scalar:
    """What a scalar with this tag stands for.

    Args:
        takes: which of ``str``, ``int``, ``float`` and ``bool`` may stand where it does, for what a trap says to write.

    Raises:
        Trap: it is one of the traps, or its tag is none of plain data.
    """
    kind = tag.removeprefix(PREFIX)
    if len(text) > MAX_DIGITS and (tag == _LEADING_ZERO or kind in ("int", "float")):
        raise Trap(f"{text[:20]}... is a number of {len(text)} characters; quote it if it is text")
    if tag == _LEADING_ZERO:
        raise Trap(f"{text} has a leading zero{_instead(takes, str(int(text)), quoted(text))}")
    if tag == _NOT_FINITE:
        raise _not_finite(text, takes)
    if tag == MERGE or kind == "str":
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise Trap("text holds half of a surrogate pair, which is no character")
        return text
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        number: int | float = {"int": int, "float": float}[kind](text)
    except KeyError:
        raise Trap(f"tag {tag} is not supported; write plain values") from None
    except ValueError:
        raise Trap(f"{text[:20]!r} cannot be read as a number") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise _not_finite(text, takes)
    return number


def _not_finite(text: str, takes: Collection[type]) -> Trap:
    return Trap(f"{text} is not a finite number{_instead(takes, 'a finite one', f'{quoted(text)} if it is text')}")


def _instead(takes: Collection[type], number: str, text: str) -> str:
    """What to write instead: a number, text or truth value, where these may stand."""
    ways = [number] if int in takes or float in takes else []
    ways += [text] if str in takes else []
    ways += ["true or false"] if bool in takes and not ways else []
    return f"; write {' or '.join(ways)}" if ways else ""


def quoted(text: str) -> str:
    """The text in double quotes."""
    return '"' + text + '"'


def patterns() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """``RESOLVERS`` by the first character of a scalar, as PyYAML has them."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in RESOLVERS:
        compiled = re.compile(rf"(?:{pattern})\Z")
        for char in first:
            found.setdefault(char, []).append((tag, compiled))
    return found
