"""The epsilon spent on each channel, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cli.reports.summary import Record
from atlas_cli.units import format_number

DIAGNOSTIC = (
    "A diagnostic for who runs the experiment: norms before clipping are sent to nobody, and no epsilon covers them"
)


def worst(metrics: Sequence[Record]) -> dict[str, float]:
    """Epsilon by channel after the last round: the largest of all task groups; ``math.inf`` without a mechanism."""
    last = [row["epsilon"] for row in metrics if row["round"] == metrics[-1]["round"]]
    channels = dict.fromkeys(channel for figures in last for channel in figures)
    return {c: max(math.inf if f[c] == "infinite" else float(f[c]) for f in last if c in f) for c in channels}


def sentence(metrics: Sequence[Record]) -> str:
    """``epsilon at delta 1e-05: updates 3.2 per client, activations infinite, fingerprints not sent``."""
    figures = ", ".join(epsilon_in_words(metrics[-1], channel, epsilon) for channel, epsilon in worst(metrics).items())
    return f"epsilon at delta {metrics[-1]['delta']:g}: {figures}"


def epsilon_in_words(record: Mapping[str, Any], channel: str, epsilon: float | str) -> str:
    """``updates 3.2 per client``, by a record that says under ``epsilon_of`` what a channel's epsilon is for."""
    figure = epsilon if isinstance(epsilon, str) else in_words(epsilon)
    unit = record.get("epsilon_of", {}).get(channel)
    if unit is None:
        return f"{channel} {figure}"
    return f"{channel} {'0' if epsilon == 0 else figure} per {unit}"


def in_words(epsilon: float) -> str:
    """A figure, or the reason why there is none."""
    if epsilon == 0:
        return "not sent"
    return "infinite" if math.isinf(epsilon) else format_number(epsilon)


def norms_in_words(norms: Mapping[str, float | None]) -> str:
    """``norm 0.84 before clipping, 0.5 after, 0.92 as sent; 83 % clipped; noise 1.5 times the signal``."""
    before, clipped, sent = (_figure(norms[name]) for name in ("before", "clipped", "sent"))
    share, noise = 100 * (norms["clip_fraction"] or 0), _figure(norms["noise_to_signal"])
    return f"norm {before} before clipping, {clipped} after, {sent} as sent; {share:.0f} % clipped; " + (
        "no noise to compare with a signal" if noise == "n/a" else f"noise {noise} times the signal"
    )


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"
