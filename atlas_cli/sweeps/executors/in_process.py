"""One trial after the other on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from atlas_cli.sweeps.trial import Outcome, Trial, run_trial


def run_all(trials: Sequence[Trial], on_start: Callable[[Trial], None]) -> Iterator[Outcome]:
    """Run trials in their order; what becomes of each is yielded as it ends; none follows one that ends the sweep."""
    for trial in trials:
        on_start(trial)
        outcome = run_trial(trial)
        yield outcome
        if outcome.ends_sweep:
            return
