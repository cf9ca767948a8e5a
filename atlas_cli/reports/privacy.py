"""The epsilon spent on each channel, for the final table and report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cli.reports.escaped import escape
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


def section(metrics: Sequence[Record], privacy: Mapping[str, Any] | None) -> str:
    """A row a channel and mechanism.

    Args:
        privacy: of the manifest.
    """
    mechanisms: Mapping[str, Mapping[str, Any]] = (privacy or {}).get("mechanisms", {})
    rows = []
    for channel, epsilon in worst(metrics).items():
        names = [name for name, facts in mechanisms.items() if facts["channel"] == channel] or [""]
        rows += [_row(channel, in_words(epsilon), name, mechanisms.get(name, {})) for name in names]
    rows += [_row("any", "none", name, facts) for name, facts in mechanisms.items() if facts["channel"] is None]
    head = "".join(f"<th>{h}</th>" for h in ("channel", "epsilon", "of one", "mechanism", "noise", "what it hides"))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
        f"<p>Epsilon after all rounds at delta {metrics[-1]['delta']:g}, the largest of all task groups. It "
        "bounds what one channel adds to what the others tell, for those who do not know the seed of the run. "
        "Infinite: nothing bounds it.</p>" + _norms(metrics)
    )


def norms_in_words(norms: Mapping[str, float | None]) -> str:
    """``norm 0.84 before clipping, 0.5 after, 0.92 as sent; 83 % clipped; noise 1.5 times the signal``."""
    before, clipped, sent = (_figure(norms[name]) for name in ("before", "clipped", "sent"))
    share, noise = 100 * (norms["clip_fraction"] or 0), _figure(norms["noise_to_signal"])
    return f"norm {before} before clipping, {clipped} after, {sent} as sent; {share:.0f} % clipped; " + (
        "no noise to compare with a signal" if noise == "n/a" else f"noise {noise} times the signal"
    )


def _norms(metrics: Sequence[Record]) -> str:
    """Of the last round that has any, a row a task group and mechanism; empty without a mechanism that clips."""
    last = max((row["round"] for row in metrics if row.get("norms")), default=None)
    lines = [
        f"<li>{escape(row['task_group'])}, {escape(name)}: {escape(norms_in_words(norms))}</li>"
        for row in metrics
        if row["round"] == last
        for name, norms in (row.get("norms") or {}).items()
    ]
    if not lines:
        return ""
    return (
        f"<p>Before and after clipping and noise in round {last}, means over clients. {DIAGNOSTIC}.</p>"
        f"<ul>{''.join(lines)}</ul>"
    )


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def _row(channel: str, epsilon: str, name: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    noise = facts.get("noise_multiplier")
    amount = "" if noise is None else f"{noise:.3g} x clip {facts['clip']:.3g}"
    return channel, epsilon, facts.get("unit") or "", name or "none", amount, facts.get("protects", "nothing")
