"""The package's own source, for tests of what holds of all its files."""

import ast
import gc
from functools import cache
from pathlib import Path

import atlas_cli

ROOT = Path(atlas_cli.__file__).parent


@cache
def trees() -> dict[Path, ast.Module]:
    """Every module as a tree, by path."""
    gc.disable()  # Python 3.11 may fail in a parse that is interrupted by a collection
    try:
        return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
    finally:
        gc.enable()
