"""A text file that a command makes for its user: whole, and never in the place of another."""

from __future__ import annotations

from pathlib import Path

from atlas_cli.errors import ConfigError, OutputError


def require_free(path: Path, other: str) -> None:
    """Check that a new file can be written to ``path``; ``other``: what else to choose, in words.

    Raises:
        ConfigError: something is there.
        OutputError: there is no folder for it.
    """
    if path.exists():
        raise _exists(path, other)
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it, or choose {other}")


def write_new(path: Path, text: str, other: str) -> None:
    """Write a new file, which ``require_free`` was asked for before anything was computed.

    Raises:
        ConfigError: something has come there meanwhile.
        OutputError: it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path, other) from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose {other}") from None


def _exists(path: Path, other: str) -> ConfigError:
    return ConfigError(f"exists already and is not overwritten; choose {other}", where=str(path))
