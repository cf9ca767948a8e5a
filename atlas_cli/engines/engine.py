"""The engine of a config, from the first round to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

from atlas_cli.engines.in_process import local_steps
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.models.halves.transfer import copies_overlapped
from atlas_cli.wire.ledger import Ledger


class LocalSteps(Protocol):
    """The local steps of a round for those that are present, as ``in_process.local_steps``."""

    def __call__(
        self,
        federation: Federation,
        attendance: Attendance,
        ledger: Ledger,
        on_step: Callable[[int, dict[str, LocalWork]], None],
        /,
    ) -> dict[str, LocalWork]:
        """Returns what every client that began the round did; who is dropped on the way leaves ``attendance``."""


class Engine(NamedTuple):
    """What a run needs of where its clients compute.

    Attributes:
        unchanged: whether the frozen weights are still what they were, wherever clients hold them.
        record: what the engine did, for the manifest; None: nothing to say.
    """

    local_steps: LocalSteps
    unchanged: Callable[[], bool]
    record: Callable[[], dict[str, Any] | None]


@contextmanager
def engine_of(federation: Federation, note: Callable[[str], None]) -> Iterator[Engine]:
    """The engine that the config names, ready; ``note`` is told what a user should know of it.

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
