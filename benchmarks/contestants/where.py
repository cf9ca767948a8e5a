"""Where the time of a step goes, by kind of operation (torch.profiler)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as recording

from contestants.atlas import run_steps
from contestants.comparisons import CLIENTS, SHAPE, Options, arena_of
from contestants.experiment import GROUP
from contestants.naive import NaiveSplit
from contestants.turns import Contestant, Work

KINDS: Mapping[str, Sequence[str]] = {
    "attention": ("attention", "softmax", "bmm"),
    "optimizer": ("adam", "norm_except", "lerp", "addcdiv", "addcmul"),
    "norms": ("layer_norm",),
    "copies": ("copy_", "cat", "index", "gather", "scatter", "embedding", "clone", "fill_", "zero_", "pad"),
}
FROZEN, SMALL = "products of frozen layers", "of adapters and heads"
COLUMNS = (FROZEN, SMALL, *KINDS, "elementwise and other operators", "outside of operators")


def profile(options: Options) -> None:
    """Print a table for atlas, and for the naive split where it does the same work."""
    print("\n| who | work | ms a step | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (3 + len(COLUMNS)))
    alone, shared = (1, SHAPE[0]), (CLIENTS, 4)
    for model, clients, size, long in (
        ("gpt2", *alone, True),
        ("gpt2", *alone, False),
        ("gpt2", CLIENTS, 1, False),
        ("gpt2", *shared, False),
        ("minilm", *alone, False),
        ("minilm", *shared, False),
    ):
        _profile(options, model, clients, size, long)


def _profile(options: Options, model: str, clients: int, size: int, long: bool) -> None:
    """Rows of one work; who took part is let go of at its end."""
    with arena_of(model, clients, size, options, long=long) as arena:
        work = f"{model}, {clients} x {size}, " + (f"{SHAPE[1]} tokens" if long else "natural lengths")
        # sides that only products of adapters and heads have
        thin = {arena.federation.config.server.rank, len(arena.federation.data[GROUP].task.classes)}
        _print("atlas", work, shares(partial(run_steps, arena.federation), options.turns, thin))
        if clients > 1:
            _print("naive split", work, shares(partial(_forever, NaiveSplit(arena)), options.turns, thin))


def shares(loop: Callable[[Callable[[Work], None]], None], turns: int, thin: Collection[int]) -> dict[str, float]:
    """Milliseconds of a step under the profiler as "step", and shares of it by kind.

    "outside of operators" is what is left: Python, autograd's bookkeeping, and the profiler's own cost.

    Args:
        loop: calls its argument after each step; it is ended after a first step and ``turns`` more.
        thin: sizes by which a product of an adapter or a head is known.
    """
    recorder = recording(activities=[ProfilerActivity.CPU], record_shapes=True)
    marks: list[float] = []

    def after_step(_work: Work) -> None:
        if not marks:
            recorder.start()
        marks.append(time.perf_counter())
        if len(marks) > turns:
            recorder.stop()
            raise _EnoughError

    with suppress(_EnoughError):
        loop(after_step)
    seconds = marks[-1] - marks[0]
    spent: dict[str, float] = defaultdict(float)
    for event in recorder.key_averages(group_by_input_shape=True):
        spent[_kind(event.key, event.input_shapes, thin)] += event.self_cpu_time_total * 1e-6
    spent["outside of operators"] = max(0.0, seconds - sum(spent.values()))
    return {"step": 1000 * seconds / turns, **{kind: spent[kind] / seconds for kind in COLUMNS}}


class _EnoughError(Exception):
    """Ends a loop that goes on for ever."""


def _forever(contestant: Contestant, after_step: Callable[[Work], None]) -> None:
    while True:
        after_step(contestant.step())


def _kind(name: str, shapes: Sequence[Any], thin: Collection[int]) -> str:
    if name == "mkldnn::_linear_pointwise":  # on weights in order (engine.prepack)
        return FROZEN
    if name in ("aten::addmm", "aten::mm"):
        sides = {side for shape in shapes if isinstance(shape, list | tuple) for side in shape}
        return SMALL if sides & set(thin) else FROZEN
    lowered = name.lower()
    return next(
        (kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)),
        "elementwise and other operators",
    )


def _print(who: str, work: str, found: Mapping[str, float]) -> None:
    cells = " | ".join(f"{100 * found[kind]:.1f} %" for kind in COLUMNS)
    print(f"| {who} | {work} | {found['step']:.0f} | {cells} |", flush=True)
