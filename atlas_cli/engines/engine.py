"""The engine of a config, from the first round to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from atlas_cli.engines.in_process import local_steps
from atlas_cli.engines.own_step import OnStep
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.models.halves.transfer import copies_overlapped
from atlas_cli.wire.ledger import Ledger

# runs the local steps of a round for the clients present, as ``in_process.local_steps``
LocalSteps = Callable[[Federation, Attendance, Ledger, OnStep], dict[str, LocalWork]]


class Engine(NamedTuple):
    """What a run needs of the engine on which its clients compute.

    Attributes:
        unchanged: whether the frozen weights are unchanged, in every process that holds them.
        record: figures of the engine for the manifest; None if there are none.
    """

    local_steps: LocalSteps
    unchanged: Callable[[], bool]
    record: Callable[[], dict[str, Any] | None]


@contextmanager
def engine_of(federation: Federation, note: Callable[[str], None]) -> Iterator[Engine]:
    """The engine that the config names, ready to run; ``note`` is called with what a user should know of it.

    Raises:
        ConfigError: it is not installed, cannot be reached, or has no room.
    """
    config = federation.config
    if config.engine.name == "in-process":
        with copies_overlapped(federation.device) if config.engine.pinned else nullcontext():
            yield Engine(local_steps, lambda: True, lambda: None)
        return
    from atlas_cli.engines.remote.cluster import connected
    from atlas_cli.engines.remote.ray_engine import RayEngine

    processors = math.ceil((config.engine.hosts or 1) * config.engine.cpus)
    with connected(config.engine.address, processors) as ray, RayEngine(federation, ray, note) as engine:
        yield Engine(engine.local_steps, engine.unchanged, engine.record)
