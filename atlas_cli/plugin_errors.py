"""What an error is shown and recorded as: one that came up in the code of a plug-in names it, its file and its hook.

Hooks are not wrapped: whose code failed is read from the traceback, and where it was called from ``errors.during``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from atlas_cli.errors import AtlasError, PluginError, places_of
from atlas_cli.plugins import LOADED, Loaded, shown_path
from atlas_cli.printable import on_one_line

_LONGEST = 500  # characters of a foreign error's own text

KINDS = {
    "aggregation.methods": "aggregation method",
    "tasks": "task",
    "models.families": "model family",
    "data.sources": "data source",
    "data.corpora": "corpus",
    "audit.attacks": "attack",
    "privacy.mechanisms": "mechanism",
    "wire.codecs": "codec",
}


class _Call(NamedTuple):
    """A function of a plug-in on the way to an error, and the line that it had come to."""

    plugin: Loaded
    frame: FrameType
    line: int


def described(error: BaseException) -> str:
    """One line for an error: what one of atlas says; of any other its class, and the plug-in that it came up in."""
    where = f", in {', '.join(places)}" if (places := places_of(error)) else ""
    if isinstance(error, AtlasError | BrokenPipeError):
        return f"{error or type(error).__name__}{where if isinstance(error, PluginError) else ''}"
    text = " ".join(str(error).split())[:_LONGEST]
    what = on_one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    blamed = plugin_of(error)
    return f"{blamed} raised {what}{where}" if blamed else f"unexpected {what}{where}"


def plugin_of(error: BaseException) -> str | None:
    """The plug-in in whose code an error came up, with file, line and hook, in words; None if it was in none."""
    calls = list(_calls(error))
    if not calls:
        return None
    inner = calls[-1].plugin
    own = list(takewhile(lambda call: call.plugin == inner, reversed(calls)))[::-1]
    written = [call for call in own if not _is_contract(call)] or own  # what it inherits calls what it wrote
    file, hook = shown_path(Path(written[-1].frame.f_code.co_filename)), written[0].frame.f_code.co_qualname
    kind = KINDS.get(inner.package, inner.package)
    return f"{kind} {inner.name!r} ({file}, line {written[-1].line}): {hook}"


def _calls(error: BaseException) -> Iterator[_Call]:
    """The plug-ins' functions on the way to an error, from the outside in."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if (plugin := _owner(frame)) is not None:
            yield _Call(plugin, frame, line)


def _owner(frame: FrameType) -> Loaded | None:
    """The plug-in of the object that a function is called on, else the one in whose module it is written."""
    of = frame.f_locals.get("self", frame.f_locals.get("cls"))
    classes = (of if isinstance(of, type) else type(of)).__mro__
    for each in classes:
        if each in LOADED:
            return LOADED[each]
    modules = {plugin.module: plugin for plugin in LOADED.values()}
    modules |= {each.__module__: plugin for each, plugin in LOADED.items()}
    named = (*(each.__module__ for each in classes), frame.f_globals.get("__name__"))
    return next((modules[name] for name in named if name in modules), None)


def _is_contract(call: _Call) -> bool:
    return str(call.frame.f_globals.get("__name__")).endswith(".contract")
