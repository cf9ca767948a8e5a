"""The runs in a folder, in the order of their start."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory, folder_of_runs, open_run


def newest_run(base: str | Path = "runs") -> RunDirectory:
    """The run under ``base`` that started last.

    Raises:
        ResourceError: there is none.
    """
    found = manifests(base)
    if not found:
        raise ResourceError(f"no run in {base}/; start one with atlas train, or give the path of a run directory")
    return open_run(found[0].parent)


def manifests(base: str | Path) -> list[Path]:
    """The manifests of the runs in a folder, of those that started last first.

    Raises:
        OutputError: the folder names the home of an unknown user.
        ResourceError: the folder cannot be listed.
    """
    folder = folder_of_runs(base)
    try:
        found = [Path(entry.path, "manifest.json") for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name that no folder can have
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise ResourceError(f"cannot look for runs in {folder}: {error.strerror}") from None
    started = {path: when for path in found if (when := _started(path)) is not None}
    return sorted(started, key=started.__getitem__, reverse=True)


def _started(manifest: Path) -> tuple[str, int] | None:
    """When a run started: in UTC as its manifest says, for names of runs have local time; None: it is not there.

    One that cannot be read comes first, as it may be the newest.
    """
    try:
        modified = manifest.stat().st_mtime_ns
        said = json.loads(manifest.read_text(encoding="utf-8"))["started"]
        return (said if isinstance(said, str) else manifest.parent.name), modified
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return manifest.parent.name, manifest.stat().st_mtime_ns
