"""Finds changes that make a split layer fit a client's memory; the prediction of each suggested setting fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from atlas_cli.planning.cuts.table import Setting, Shapes
from atlas_cli.units import format_bytes_mib

# what makes a client smaller at the same step, in the order in which it is tried: the first two change no number
SMALLER: Mapping[str, Any] = {
    "embedding": "rows",
    "checkpointing": True,
    "quantization": "nf4",
    "dtype": "bfloat16",
}
SHORTEST = 8
LISTED = 4  # of ways with equally many changes
STEP_SIZE = ("batch", "tokens")


def remedies(shapes: Shapes, cut: int, memory: int) -> tuple[str, ...]:
    """The options of ``atlas split-point`` with which layer ``cut`` fits into ``memory`` bytes, the fewest first.

    Changes are tried alone, then two at a time and so on: embeddings by the row and checkpointing, which leave every
    number as it is, weights of 4 bits, bfloat16, and then the largest batch and the greatest length that fit. If all
    ways with the fewest changes take a smaller batch or shorter texts, the shortest way that takes neither is named
    too. Where nothing is enough, the least memory that is.
    """
    found = _Ways(shapes, cut, memory)
    ways = found.fewest(found.changes)[:LISTED]
    if ways and all(found.resized(way) for way in ways):
        ways += found.fewest([change for change in found.changes if change not in STEP_SIZE])[:1]
    if ways:
        return tuple(f"{options(shapes.setting, way)} fits ({size_text(found.peak(way))})" for way in ways)
    least = found.changed(found.changes)
    return (
        f"nothing makes it fit: layer {cut} with {options(shapes.setting, least)} needs at least "
        f"{size_text(found.peak(least))}, a device with {size_text(found.peak(shapes.setting))} takes it as asked",
    )


def deeper(shapes: Shapes, memory: int) -> tuple[int, str] | None:
    """The deepest layer that fits with embeddings by the row, checkpointing and weights of 4 bits, and these options.

    None where these are asked for already, or the first layer does not fit.
    """
    asked = shapes.setting
    quantization = "nf4" if asked.quantization == "none" else asked.quantization
    again = asked.learns in ("backprop", "auxiliary")
    small = replace(asked, embedding="rows", checkpointing=again, quantization=quantization)
    if small == asked:
        return None
    tight = Shapes(shapes.config, small)
    layer = _largest(1, shapes.n_layers, memory, lambda cut: tight.client(cut).peak)
    return None if layer is None else (layer, options(asked, small))


class _Ways:
    """The settings that fit, by the changes that lead to them.

    Attributes:
        changes: that are possible, in the order in which they are tried.
    """

    def __init__(self, shapes: Shapes, cut: int, memory: int) -> None:
        self._shapes, self._cut, self._memory = shapes, cut, memory
        self._asked = asked = shapes.setting
        self._least: dict[str, Any] = {**SMALLER, "batch": 1, "tokens": min(SHORTEST, asked.tokens)}
        if asked.quantization != "none":
            self._least["quantization"] = asked.quantization
        if asked.learns in ("zeroth-order", "frozen"):  # it has no backward to run blocks again in
            del self._least["checkpointing"]
        if asked.learns == "zeroth-order":  # differences of activations are lost in its rounding
            del self._least["dtype"]
        self.changes = [name for name, least in self._least.items() if getattr(asked, name) != least]
        self._peaks: dict[Setting, int] = {}

    def peak(self, setting: Setting) -> int:
        """The client's peak."""
        if setting not in self._peaks:
            self._peaks[setting] = self._shapes.client(self._cut, setting).peak
        return self._peaks[setting]

    def changed(self, changes: Iterable[str]) -> Setting:
        """The setting with these changes, batch and length the smallest."""
        return _with(self._asked, {name: self._least[name] for name in changes})

    def resized(self, setting: Setting) -> bool:
        """Whether a setting has a smaller batch or shorter texts than asked for."""
        return any(getattr(setting, name) != getattr(self._asked, name) for name in STEP_SIZE)

    def fewest(self, changes: Sequence[str]) -> list[Setting]:
        """The settings that fit with as few of ``changes`` as can be."""
        if self.peak(self.changed(changes)) > self._memory:
            return []
        for count in range(1, len(changes) + 1):
            if found := [way for some in combinations(changes, count) if (way := self._fitting(some)) is not None]:
                return found
        return []

    def _fitting(self, changes: Sequence[str]) -> Setting | None:
        """The setting with these changes, with the largest batch or else the greatest length that fit."""
        setting = self.changed(changes)
        name = next((name for name in reversed(STEP_SIZE) if name in changes), None)
        if name is None:
            return setting if self.peak(setting) <= self._memory else None
        most = _largest(
            self._least[name],
            getattr(self._asked, name),
            self._memory,
            lambda size: self.peak(_with(setting, {name: size})),
        )
        return None if most is None else _with(setting, {name: most})


def _with(setting: Setting, changes: dict[str, Any]) -> Setting:
    return replace(setting, **changes)


def size_text(size: int) -> str:
    """A size in MiB, or in GiB from 100 GiB on."""
    return f"{size / 2**30:,.1f} GiB" if size >= 100 * 2**30 else format_bytes_mib(size)


def _largest(low: int, high: int, memory: int, peak: Callable[[int], int]) -> int | None:
    """The largest number from ``low`` to ``high`` whose peak fits, if all smaller ones fit too.

    A peak takes a trace, and peaks grow almost in a line: so it is looked for where a line reaches the memory.
    """
    if peak(low) > memory:
        return None
    if peak(high) <= memory:
        return high
    while high - low > 1:  # low fits, and high does not
        guess = low + (high - low) * (memory - peak(low)) // (peak(high) - peak(low))
        guess = min(max(guess, low + 1), high - 1)
        low, high = (guess, high) if peak(guess) <= memory else (low, guess)
    return low


def options(asked: Setting, setting: Setting) -> str:
    """The difference between two settings as command-line options."""
    named = {
        "--embedding": (asked.embedding, setting.embedding),
        "--quantization": (asked.quantization, setting.quantization),
        "--dtype": (asked.dtype, setting.dtype),
        "--batch-size": (asked.batch, setting.batch),
        "--max-length": (asked.tokens, setting.tokens),
    }
    changed = [f"{option} {now}" for option, (before, now) in named.items() if now != before]
    if setting.checkpointing != asked.checkpointing:
        changed.append("--checkpointing")
    return " ".join(changed) or "the same setting"
