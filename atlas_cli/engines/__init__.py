"""Where clients and server run: an engine takes a federation through the local steps of a round."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from atlas_cli.engines.trained import Trained
    from atlas_cli.federation.attendance import Attendance
    from atlas_cli.federation.parties import Federation
    from atlas_cli.federation.protocol import Ledger


class LocalSteps(Protocol):
    """The local steps of a round for those that are present, as ``in_process.local_steps``."""

    def __call__(
        self,
        federation: Federation,
        attendance: Attendance,
        ledger: Ledger,
        on_step: Callable[[int, dict[str, Trained]], None],
        /,
    ) -> dict[str, Trained]:
        """Returns what every client that began the round did; who is dropped on the way leaves ``attendance``."""
