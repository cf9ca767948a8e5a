"""Folders called after clients and task groups: names that every file system takes, and keeps apart.

Windows and macOS do not tell ``A`` from ``a``, and Windows has no folder called ``nul`` or ``a.``; a run directory may
be copied there. A name that is safe and alone is its own folder.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{port}{i}" for port in ("com", "lpt") for i in range(10)),
}
_SAFE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """A folder for each name, no two of them alike in any case.

    Where the name itself will not do it is ``_<what is left of it>~<hash of it>``: no other name begins like that.
    """
    given = list(dict.fromkeys(names))
    alike = Counter(name.casefold() for name in given)
    return {name: name if alike[name.casefold()] == 1 and _is_safe(name) else _made_safe(name) for name in given}


def _is_safe(name: str) -> bool:
    return _SAFE.fullmatch(name) is not None and name.partition(".")[0].casefold() not in _DEVICES


def _made_safe(name: str) -> str:
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:60]
    return f"_{kept}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
