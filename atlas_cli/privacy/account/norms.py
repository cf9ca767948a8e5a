"""Norms before and after a mechanism clipped and perturbed: a diagnostic for the person who runs the experiment.

They show whether a clip binds and how much of what is merged is noise. Nobody else sees a norm before clipping: it is
not sent, and no epsilon covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Norms:
    """L2 norms of one client in one round, or their means over the clients of a group.

    Attributes:
        before: the norm as computed; for gradients of examples the mean over all that were drawn.
        clipped: the norm after clipping, averaged likewise.
        sent: the norm of what leaves the client, with its noise if it adds any; for examples that of the gradient that
            a step uses, as the root mean square over steps.
        clip_fraction: the share of updates, or of gradients of examples, whose norm exceeded the clip.
        noise_to_signal: the norm of the noise divided by that of the signal; None if the signal is zero.
    """

    before: float
    clipped: float
    sent: float
    clip_fraction: float
    noise_to_signal: float | None


def ratio(noise: float, signal: float) -> float | None:
    """The ratio of noise to signal, or None if there is no signal."""
    return noise / signal if signal > 0 else None


def mean_norms(each: Sequence[Norms]) -> Norms:
    """Means over clients; ratios are averaged over the clients that have one."""
    ratios = [norms.noise_to_signal for norms in each if norms.noise_to_signal is not None]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return Norms(
        mean([norms.before for norms in each]),
        mean([norms.clipped for norms in each]),
        mean([norms.sent for norms in each]),
        mean([norms.clip_fraction for norms in each]),
        mean(ratios) if ratios else None,
    )
