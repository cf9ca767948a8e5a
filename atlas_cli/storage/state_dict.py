"""The state of a part of a run: everything that a new part needs to go on in its place.

A part has ``state_dict``, which gives a tensor or a JSON value under each name, and ``load_state_dict``, which checks
all that it is given: names, types, shapes and ranges. A state may come from a forged file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from atlas_cli.errors import ResourceError

if TYPE_CHECKING:
    from torch import Tensor

StateDict = dict[str, Any]  # a Tensor, or what JSON can hold
TENSORS, VALUES = "state.safetensors", "state.json"


class Stateful(Protocol):
    """A part of a run that has a state."""

    def state_dict(self) -> StateDict:
        """Its present state; tensors are on the CPU and are never written to later."""

    def load_state_dict(self, state: StateDict, /) -> None:
        """Go on from a state.

        Raises:
            StateError: a field is missing, invalid or unknown.
        """


class StateError(ResourceError):
    """A field of a state is invalid.

    Args:
        file: that it is stored in: ``TENSORS`` or ``VALUES``.
    """

    def __init__(self, file: str, field: str, why: str) -> None:
        super().__init__(f"{file}: {field:.120} {why}")
        self.file, self.field, self.why = file, field, why

    def within(self, part: str) -> StateError:
        """The same error, with the name of the part before that of the field."""
        return StateError(self.file, f"{part}{'/' if self.file == TENSORS else '.'}{self.field}", self.why)


@contextmanager
def fields_of(part: str) -> Iterator[None]:
    """Put the name of a part before that of the field in errors raised inside the block."""
    try:
        yield
    except StateError as error:
        raise error.within(part) from None


def require_tensor(holds: bool, field: str, why: str) -> None:
    """Raise the error of a tensor unless something holds."""
    if not holds:
        raise StateError(TENSORS, field, why)


def require_value(holds: bool, field: str, why: str) -> None:
    """Raise the error of a JSON value unless something holds."""
    if not holds:
        raise StateError(VALUES, field, why)


def is_count(value: object) -> bool:
    """Whether a JSON value is a whole number from 0 on."""
    return type(value) is int and value >= 0


def tensors_and_values(state: StateDict, names: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Separate a state into tensors and JSON values.

    Args:
        names: the names that the values must have.
    """
    from torch import Tensor

    values = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    for name in sorted(values.keys() ^ set(names)):
        require_value(False, name, "is missing" if name in names else "is of nobody")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}, values


def copies(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, with a prefix before every name."""
    return {f"{prefix}{name}": value.detach().cpu().clone() for name, value in tensors.items()}


def with_prefix(prefix: str, state: Mapping[str, Any]) -> StateDict:
    """A state with a prefix before every name."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def pop_prefix(prefix: str, state: StateDict) -> StateDict:
    """Remove the entries with a prefix from ``state``, and return them without the prefix."""
    found = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in found}


def copy_into(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Write saved values over a part's own.

    Raises:
        StateError: other names, shapes or types.
    """
    for name in sorted(own.keys() ^ saved.keys()):
        require_tensor(False, name, "is missing" if name in own else "is of no client, group or adapter")
    for name, value in own.items():
        found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (saved[name], value))
        require_tensor(found == wanted, name, f"is {found}, expected {wanted}")
        value.detach().copy_(saved[name])
