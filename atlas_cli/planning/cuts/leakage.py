"""Measured shares of the inputs that an attack recovers from the activations at each split layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from atlas_cli.config.schema.section import Section
from atlas_cli.errors import ConfigError, ResourceError

EXAMPLE = '{"layer": {"1": 0.99, "2": 0.9}, "attack": "...", "source": "..."}'


@dataclass(frozen=True)
class Leakage:
    """The figures of one attack on one model.

    Attributes:
        layers: the share recovered, 0 to 1, by split layer from 1; layers may be missing.
        attack: the attack, and what it recovers.
        source: the origin of the figures.
    """

    layers: Mapping[int, float]
    attack: str
    source: str

    def worst(self, layer: int) -> float | None:
        """The leakage of a cut at ``layer``; None if that layer was not measured.

        The activations of deeper layers are computed from those here, so whoever sees these can recover what is
        recovered there: the largest figure from this layer on.
        """
        return max(share for at, share in self.layers.items() if at >= layer) if layer in self.layers else None


# by packaged model
KNOWN = {
    "minilm": Leakage(
        dict(enumerate((1.0, 0.999, 0.99, 0.96, 0.72, 0.59), start=1)),
        "nearest embedding, share of tokens",
        "pretrained weights, no training of the attack",
    )
}


class _File(Section):
    layer: dict[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, le=1)]]
    attack: str
    source: str


def read_leakage(path: Path) -> Leakage:
    """Read figures from a JSON file: ``{"layer": {"1": 0.99, ...}, "attack": "...", "source": "..."}``.

    Raises:
        ResourceError: the file cannot be read.
        ConfigError: the file has another form; names the first wrong entry.
    """
    try:
        file = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        entry = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        what = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
        raise ConfigError(f"{what}; a leakage file is {EXAMPLE}", key=entry or None, where=str(path)) from None
    return Leakage(file.layer, file.attack, file.source)
