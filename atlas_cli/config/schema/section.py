"""What the parts of the config schema are made of: the base model, and types that check their values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from atlas_cli import discovery
from atlas_cli.errors import ConfigError

Ranks = Annotated[
    int | dict[int, int],
    Field(description="LoRA rank for every client layer, or by layer: {0: 8, 1: 16} (layers not named get no adapter)"),
]
SplitLayer = Annotated[int, Field(ge=1)] | Literal["auto"] | None
Share = Annotated[float, Field(gt=0, le=1)]
PartSize = Annotated[int | float, AfterValidator(lambda size: _check_part_size(size))]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


def _check_ranks(rank: Any) -> Any:
    if rank == "auto":
        return rank
    by_layer = rank if isinstance(rank, dict) else {0: rank}
    if not by_layer or any(r < 1 for r in by_layer.values()):
        raise ValueError("rank must be at least 1 (name only the layers that get an adapter)")
    if any(layer < 0 for layer in by_layer):
        raise ValueError("layers count from 0")
    return rank


def _check_client_ranks(rank: Any) -> Any:
    return rank if isinstance(rank, int) and rank == 0 else _check_ranks(rank)  # who may have 0 depends on ``learns``


def _check_part_size(size: float) -> float:
    if (size < 1) if isinstance(size, int) else not 0 < size < 1:
        raise ValueError("must be a share above 0 and below 1, or a number of rows from 1 on")
    return size


CheckedRanks = Annotated[Ranks, AfterValidator(_check_ranks)]
ClientRanks = Annotated[int | dict[int, int] | Literal["auto"], AfterValidator(_check_client_ranks)]


def quantity(parse: Callable[[object], float]) -> BeforeValidator:
    """A text that ``parse`` understands; it stays a text, so that a printed config has its units.

    It is parsed first, so that a bare number is told which units there are, and not that it must be text.
    """

    return BeforeValidator(partial(_parsed, parse))


def _parsed(parse: Callable[[object], float], value: object) -> object:
    parse(value)
    return value


def one_of(package: str) -> AfterValidator:
    """The YAML name of a plug-in of ``atlas_cli.<package>`` or of another package; it is not imported."""

    def check(name: object) -> object:
        if isinstance(name, str):
            try:
                discovery.find(package, name)
            except ConfigError as error:
                raise ValueError(error.message) from None
        return name

    return AfterValidator(check)


class Section(BaseModel):
    """Base of every part of the config: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
