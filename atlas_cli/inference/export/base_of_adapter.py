"""The base that an exported adapter names: where stock tools find the weights that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_cli.inference.loaded_model import LoadedModel
from atlas_cli.models.files.resolve import model_config
from atlas_cli.packages import models as packaged

NOT_KNOWN = "not known"
_LICENCE = re.compile(r"^license:\s*[\"']?([\w.+ -]+?)[\"']?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class BaseOfAdapter:
    """A base as stock tools name it.

    Attributes:
        name: an absolute path or a hub id; None where no stock tool loads its weights by a name: it was drawn at
            random, or is in a GGUF file. Then it is saved beside the adapter.
        revision: the commit or name on the hub.
        licence: as its model card or package has it.
        generation: its own defaults of how to generate: where to stop, above all.
    """

    name: str | None
    revision: str | None
    licence: str
    generation: Mapping[str, Any] = field(default_factory=dict)


def base_of(loaded: LoadedModel) -> BaseOfAdapter:
    """Where the base of a model is, and under which licence."""
    if loaded.origin.seed is not None:
        return BaseOfAdapter(None, None, NOT_KNOWN)
    _, source, _ = model_config(loaded.config.model)
    assert source is not None, "weights were loaded"
    licence = _licence(loaded.origin.base, source.file("README.md"))
    if source.gguf_file:
        return BaseOfAdapter(None, None, licence)
    generation = source.json("generation_config.json")
    if source.kind == "hub":
        commit = getattr(loaded.base.config, "_commit_hash", None)
        return BaseOfAdapter(source.path, commit or loaded.config.model.revision, licence, generation)
    return BaseOfAdapter(str(Path(source.path).resolve()), None, licence, generation)


def _licence(name: str, card: Path | None) -> str:
    if name in packaged.MODELS:
        return packaged.MODELS[name].licence
    if card is None:
        return NOT_KNOWN
    _, opened, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    front = rest.partition("\n---")[0] if opened else ""
    found = _LICENCE.search(front)
    return found.group(1) if found else NOT_KNOWN
