"""JSON that every reader takes: no NaN and no Infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def strict_json(obj: Any, indent: int | None = None) -> str:
    """One JSON text and a line end; floats that are not finite become null."""
    try:  # nearly all is finite, and looking at each value first takes longer than writing it
        return json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError):
        return json.dumps(_finite(obj), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {key: _finite(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_finite(value) for value in obj]
    return obj
