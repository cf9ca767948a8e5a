"""Where the time of a step goes, by kind of operation (torch.profiler)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as recording

from contestants.atlas import atlas_steps
from contestants.comparisons import CLIENTS, SHAPE, Options, arena_of
from contestants.naive import NaiveSplit
from contestants.turns import Contestant

PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::_addmm_activation")
KINDS: Mapping[str, Sequence[str]] = {
    "attention": ("attention", "softmax"),
    "optimizer": ("adam", "foreach", "norm_except", "lerp", "addcdiv", "addcmul", "linalg_vector_norm"),
    "norms": ("layer_norm",),
    "copies": ("copy_", "cat", "index", "gather", "scatter", "embedding", "clone", "fill_", "zero_", "pad"),
}
SMALL = 32  # a product with a side of at most this is one of an adapter, a head or a pooled token


def profile(options: Options) -> None:
    """Print a table for atlas, and for the naive split where it does the same work."""
    print("\n| who | work | ms a step | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (3 + len(COLUMNS)))
    for clients, size, long in ((1, SHAPE[0], True), (1, SHAPE[0], False), (CLIENTS, 1, False), (CLIENTS, 4, False)):
        with arena_of("gpt2", clients, size, options, long=long) as arena:
            work = f"{clients} x {size}, " + (f"{SHAPE[1]} tokens" if long else "natural")
            steps = atlas_steps(arena.federation)
            _print("atlas", work, shares(steps, options.turns))
            steps.close()
            if clients > 1:
                _print("naive split", work, shares(NaiveSplit(arena), options.turns))


COLUMNS = (
    *("products of frozen layers", "of adapters and heads", *KINDS),
    *("elementwise and other operators", "outside of operators"),
)


def shares(contestant: Contestant, turns: int) -> dict[str, float]:
    """Milliseconds of a step under the profiler as "step", and shares of it by kind.

    "outside of operators" is what is left: Python, autograd's bookkeeping, and the profiler's own cost.
    """
    contestant.step()
    with recording(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        began = time.perf_counter()
        for _ in range(turns):
            contestant.step()
        seconds = time.perf_counter() - began
    spent: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages(group_by_input_shape=True):
        spent[_kind(event.key, event.input_shapes)] += event.self_cpu_time_total * 1e-6
    spent["outside of operators"] = max(0.0, seconds - sum(spent.values()))
    return {"step": 1000 * seconds / turns, **{kind: spent[kind] / seconds for kind in COLUMNS}}


def _kind(name: str, shapes: Sequence[Any]) -> str:
    if name in PRODUCTS:
        sides = [side for shape in shapes if isinstance(shape, list | tuple) and len(shape) > 1 for side in shape[-2:]]
        return "of adapters and heads" if sides and min(sides) <= SMALL else "products of frozen layers"
    lowered = name.lower()
    return next(
        (kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)),
        "elementwise and other operators",
    )


def _print(who: str, work: str, found: Mapping[str, float]) -> None:
    cells = " | ".join(f"{100 * found[kind]:.1f} %" for kind in COLUMNS)
    print(f"| {who} | {work} | {found['step']:.0f} | {cells} |", flush=True)
