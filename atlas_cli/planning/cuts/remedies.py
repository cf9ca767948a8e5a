"""Finds changes that make a split layer fit a client's memory; the prediction of each suggested setting fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from atlas_cli.planning.cuts.table import Setting, Shapes
from atlas_cli.units import format_bytes_mib

SHORTEST = 8


def remedies(shapes: Shapes, cut: int, memory: int) -> tuple[str, ...]:
    """The options of ``atlas split-point`` with which layer ``cut`` fits into ``memory`` bytes.

    First each change alone: the largest batch, checkpointing, bfloat16 weights, the greatest length. Where none is
    enough, all of them together, with the largest batch and then the greatest length that fit. Where that is not
    enough, the least memory that is.
    """
    asked, shortest = shapes.setting, min(SHORTEST, shapes.setting.tokens)
    peaks: dict[Setting, int] = {}

    def peak(setting: Setting) -> int:
        if setting not in peaks:
            peaks[setting] = shapes.client(cut, setting).peak
        return peaks[setting]

    def fits(setting: Setting) -> bool:
        return peak(setting) <= memory

    def largest(setting: Setting) -> Setting | None:
        """The largest batch that fits, else the greatest length at one example."""
        batch = _largest(1, asked.batch, memory, lambda n: peak(replace(setting, batch=n)))
        if batch is not None:
            return replace(setting, batch=batch)
        length = _largest(shortest, asked.tokens, memory, lambda n: peak(replace(setting, batch=1, tokens=n)))
        return None if length is None else replace(setting, batch=1, tokens=length)

    length = _largest(shortest, asked.tokens, memory, lambda n: peak(replace(asked, tokens=n)))
    batch = _largest(1, asked.batch, memory, lambda n: peak(replace(asked, batch=n)))
    alone = [
        *([replace(asked, batch=batch)] if batch is not None else []),
        *([replace(asked, checkpointing=True)] if not asked.checkpointing else []),
        *([replace(asked, dtype="bfloat16")] if asked.dtype != "bfloat16" else []),
        *([replace(asked, tokens=length)] if length is not None else []),
    ]
    found = [f"{_options(asked, s)} fits ({size_text(peak(s))})" for s in alone if fits(s)]
    if found:
        return tuple(found)
    everything = replace(asked, checkpointing=True, dtype="bfloat16")
    together = largest(everything)
    if together is not None:
        return (f"{_options(asked, together)} fits ({size_text(peak(together))})",)
    smallest = replace(everything, batch=1, tokens=shortest)
    return (
        f"nothing makes it fit: layer {cut} with {_options(asked, smallest)} needs at least "
        f"{size_text(peak(smallest))}, a device with {size_text(peak(asked))} takes it as asked",
    )


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


def _options(asked: Setting, setting: Setting) -> str:
    """The difference between two settings as command-line options."""
    options = []
    if setting.batch != asked.batch:
        options.append(f"--batch-size {setting.batch}")
    if setting.tokens != asked.tokens:
        options.append(f"--max-length {setting.tokens}")
    if setting.dtype != asked.dtype:
        options.append(f"--dtype {setting.dtype}")
    if setting.checkpointing != asked.checkpointing:
        options.append("--checkpointing")
    return " ".join(options) or "the same setting"
