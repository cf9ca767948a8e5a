"""Trials side by side on a Ray cluster, each with the CPUs of its ``threads`` and the GPUs of its ``engine.gpus``.

Every node must see the config, the data and ``output.dir`` under the same paths, as on one machine or a shared disk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, suppress
from typing import Any

from atlas_cli.engines.remote.cluster import connected, require_room, room
from atlas_cli.errors import ConfigError
from atlas_cli.sweeps.trial import Outcome, Trial, run_trial


def run_all(trials: Sequence[Trial], on_start: Callable[[Trial], None]) -> Iterator[Outcome]:
    """Run trials as the cluster of the first one's ``engine.address`` has room, and yield what becomes of each.

    Raises:
        ConfigError: the cluster cannot be reached, has no room for a trial, or a trial would make one of its own.
    """
    for trial in trials:
        if trial.config.engine.name == "ray":
            raise ConfigError("a sweep on ray runs trials side by side, each in-process; remove it", key="engine.name")
    needs = [_needs(trial) for trial in trials]
    with connected(trials[0].config.engine.address, max(int(need["CPU"]) for need in needs)) as ray:
        for need in needs:
            require_room(ray, need, 1)
        waiting, running = deque(zip(trials, needs, strict=True)), dict[Any, Trial]()
        try:
            while waiting or running:
                while waiting and len(running) < room(ray, waiting[0][1]):
                    trial, need = waiting.popleft()
                    remote = ray.remote(max_retries=0, num_cpus=need["CPU"], num_gpus=need["GPU"])(_run_in)
                    running[remote.remote(os.getcwd(), trial)] = trial
                    on_start(trial)
                if not running:
                    require_room(ray, waiting[0][1], 1)  # a node was lost, and waiting would be for ever
                outcome = _next(ray, running)
                yield outcome
                if outcome.ends_sweep:
                    waiting.clear()
        except KeyboardInterrupt:
            for reference in running:
                ray.cancel(reference)  # a KeyboardInterrupt there, which lets the run keep its last round
            while running:
                yield _next(ray, running)
            raise


def _run_in(folder: str, trial: Trial) -> Outcome:
    with chdir(folder):
        return run_trial(trial)


def _needs(trial: Trial) -> dict[str, float]:
    return {"CPU": float(trial.config.threads or 1), "GPU": trial.config.engine.gpus}


def _next(ray: Any, running: dict[Any, Trial]) -> Outcome:
    ready: list[Any] = []
    while not ready:
        ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
    trial = running.pop(ready[0])
    try:
        outcome: Outcome = ray.get(ready[0])
    except ray.exceptions.RayError as error:
        with suppress(AttributeError):
            error = error.cause or error
        outcome = Outcome(trial.number, "failed", error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return outcome
