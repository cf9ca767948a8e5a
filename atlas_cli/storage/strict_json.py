"""JSON that every reader takes: no NaN and no Infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_ON_ONE_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def strict_json(obj: Any, indent: int | None = None) -> str:
    """One JSON text and a line end; floats that are not finite become null."""
    try:  # nearly all is finite, and looking at each value first takes longer than writing it
        return (_ON_ONE_LINE(obj) if indent is None else _dumps(obj, indent)) + "\n"
    except (TypeError, ValueError):
        return _dumps(_finite(obj), indent) + "\n"


def _dumps(obj: Any, indent: int | None) -> str:
    return json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {key: _finite(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_finite(value) for value in obj]
    return obj
