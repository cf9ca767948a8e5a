"""The error that names a field of a saved state, and the file it is in."""

from __future__ import annotations

from atlas_cli.errors import ResourceError

STATE, TENSORS = "state.json", "state.safetensors"


class Unsound(ResourceError):
    """A field of a state is not what it must be."""


def unsound(file: str, field: str, why: str) -> Unsound:
    """The error that names a field and its file."""
    return Unsound(f"{file}: {field:.120} {why}")
