"""What an end of the wire keeps of each text between its messages: what was decoded of it last, or what was lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atlas_cli.storage.state_dict import require_tensor
from atlas_cli.storage.tensor_store import TensorStore

_TEXT = "text"


class Texts(NamedTuple):
    """The texts of a message: their numbers among the client's examples, and their real tokens.

    Attributes:
        mask: (B, T) bool, False on padding.
    """

    numbers: list[int]
    mask: Tensor


class TextMemory:
    """Tensors (L, D) float32 by place and by the number of a text, of its L real tokens; they are never written to.

    A place is ``sent/<kind>``, ``received/<kind>`` or ``lost/<kind>``, by the kind of message.

    Attributes:
        store: where they are; None for memory. It is given before anything is kept.
    """

    def __init__(self) -> None:
        self.store: TensorStore | None = None
        self._kept: dict[str, dict[int, Tensor | str]] = {}  # or its key in the store

    def known(self, place: str, numbers: Sequence[int]) -> list[bool]:
        """Of each text, whether there is something of it."""
        there = self._kept.get(place, {})
        return [number in there for number in numbers]

    def read(self, place: str, texts: Texts, width: int) -> Tensor:
        """(B, T, D) on the device of the mask, with zeros for padding and for texts that are not known."""
        there = self._kept.get(place, {})
        found = torch.zeros(*texts.mask.shape, width, device=texts.mask.device)
        for row, number in enumerate(texts.numbers):
            if (kept := there.get(number)) is not None:
                values = self._values(kept)
                found[row, : len(values)] = values.to(found.device)
        return found

    def keep(self, place: str, texts: Texts, values: Tensor) -> None:
        """Keep what there is of the real tokens of (B, T, D)."""
        lengths = texts.mask.sum(1).tolist()
        for number, length, rows in zip(texts.numbers, lengths, values, strict=True):
            self._put(place, number, rows[:length].detach().float().cpu().clone())

    def clear(self) -> None:
        """Forget all."""
        for there in self._kept.values():
            for kept in there.values():
                self._drop(kept)
        self._kept = {}

    def _put(self, place: str, number: int, values: Tensor) -> None:
        there = self._kept.setdefault(place, {})
        new = values if self.store is None else self.store.put({_TEXT: values})
        self._drop(there.get(number))
        there[number] = new

    def _values(self, kept: Tensor | str) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        assert self.store is not None
        return self.store.get(kept)[_TEXT]

    def _drop(self, kept: Tensor | str | None) -> None:
        if isinstance(kept, str) and self.store is not None:
            self.store.release(kept)

    def state_dict(
        self, places: Collection[str] | None = None, numbers: Collection[int] | None = None
    ) -> dict[str, Tensor]:
        """``<place>/<number>``; of some places and texts, or of all."""
        chosen = {place: there for place, there in self._kept.items() if places is None or place in places}
        return {
            f"{place}/{number}": self._values(kept)
            for place, there in chosen.items()
            for number, kept in there.items()
            if numbers is None or number in numbers
        }

    def load_state_dict(self, state: Mapping[str, Tensor], places: Collection[str], width: int) -> None:
        """Take over a state.

        Raises:
            StateError: of a place that is none of ``places``, or of another shape or type.
        """
        self.clear()
        for name, kept in state.items():
            place, _, number = name.rpartition("/")
            require_tensor(place in places and number.isdecimal(), f"wire/{name}", "is of no codec")
            fits = kept.dim() == 2 and kept.shape[1] == width and kept.dtype == torch.float32
            require_tensor(fits, f"wire/{name}", f"is {kept.dtype} of {tuple(kept.shape)}, expected (L, {width})")
            self._put(place, int(number), kept)

    def bytes(self, places: Collection[str] | None = None) -> int:
        """Bytes of what is kept."""
        return sum(kept.nbytes for kept in self.state_dict(places).values())

    @property
    def tokens(self) -> int:
        """Real tokens of the texts of which something is kept."""
        return sum({name.rpartition("/")[2]: len(kept) for name, kept in self.state_dict().items()}.values())
