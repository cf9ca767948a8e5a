"""origin.json beside an exported adapter: which base, task and classes it belongs to.

An adapter is right with the weights that it was trained on alone, and a head with its classes in their order. PEFT's
own files say neither, so that another base, or the same classes in another order, would be taken in silence.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from atlas_cli.errors import ResourceError
from atlas_cli.models.frozen.load import FrozenBase

ORIGIN = "origin.json"
_FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """Where an adapter comes from.

    Attributes:
        owner: the client or task group whose adapter it is.
        base: ``model.name``; ``weights``: how the base was initialised, in words; ``seed``: what its weights were drawn
            from, where they were; ``revision``: of the hub, where one was named.
        dtype: of the base; ``sha256``: of all its weights, as they were loaded.
        quantization: of the base under the adapter, in training.
        task: task type; ``classes``: class names in the order of the head's outputs; ``pooling``: what its head reads.
    """

    owner: str
    base: str
    weights: str
    seed: int | None
    revision: str | None
    dtype: str
    sha256: str
    task: str
    classes: list[str]
    pooling: str
    quantization: str = "none"

    @property
    def base_name(self) -> str:
        """The name of the base for PEFT; randomly drawn weights do not get the name of published ones."""
        if self.seed is None:
            return self.base
        return f"random weights of {self.base} (seed {self.seed}, sha256 {self.sha256[:16]})"

    def content(self) -> bytes:
        """The content of origin.json."""
        known = asdict(self)
        if self.quantization == "none":
            del known["quantization"]
        return (json.dumps({"format": _FORMAT, **known}, indent=2, ensure_ascii=False) + "\n").encode()


def read_origin(folder: Path) -> Origin | None:
    """Read the origin of an adapter folder; None if it has none, like the folders that PEFT writes.

    Raises:
        ResourceError: damaged, or of a later version.
    """
    file = folder / ORIGIN
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResourceError(f"{file} cannot be read: {error}") from None
    kinds: dict[str, Any] = {"format": int, **get_type_hints(Origin)}
    if isinstance(found, dict):
        found.setdefault("quantization", "none")
    if not isinstance(found, dict) or found.keys() != kinds.keys() or found["format"] != _FORMAT:
        raise ResourceError(
            f"{file} is damaged or of another version: expected format {_FORMAT} with {', '.join(kinds)}"
        )
    for name, kind in kinds.items():
        try:
            TypeAdapter(kind).validate_python(found[name], strict=True)
        except ValidationError as error:
            raise ResourceError(f"{file}: {name} is damaged: {error.errors()[0]['msg']}") from None
    return Origin(**{name: value for name, value in found.items() if name != "format"})


def require_same_base(folder: Path, origin: Origin, base: FrozenBase) -> None:
    """Check by the hash of the weights that an adapter was trained on this base.

    Raises:
        ResourceError: the hashes differ.
    """
    if origin.sha256 != base.sha256:
        theirs = f"{origin.base_name} in {origin.dtype}"
        ours = f"{base.name} in {str(base.dtype).removeprefix('torch.')}, weights {base.init}"
        raise ResourceError(
            f"{folder} was trained on {theirs}, weights {origin.sha256[:16]}, and this run has {ours}, "
            f"{base.sha256[:16]}: give the base that it was trained on"
        )
