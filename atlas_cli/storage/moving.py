"""Renames that wait a moment where somebody has the file open: Windows moves nothing that another process reads."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IN_USE = (5, 32, 33)  # errors of Windows: access denied, sharing violation, lock violation
_PATIENCE, _TURN = 2.0, 0.05  # seconds


def move(source: Path, target: Path) -> None:
    """Rename a file, over an older one too, or a folder to a name that nothing has.

    On Windows a virus scanner or a reader may have it open just now; elsewhere the first error counts.

    Raises:
        OSError: no permission, or it stays in use.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() > until:
                raise
        time.sleep(_TURN)
