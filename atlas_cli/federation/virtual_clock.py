"""The virtual time at which rounds begin, which devices with traces depend on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.devices.traces import Trace
from atlas_cli.storage.state_dict import StateDict, require_value, tensors_and_values

MOST_WAITS = 100_000


class VirtualClock:
    """The virtual time of a run, which goes on from round to round and after a resume.

    Args:
        devices: of all clients.

    Attributes:
        now: seconds since training began.
    """

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self.devices, self.now = devices, 0.0
        self._ended = 0.0

    def reachable(self, client: str) -> bool:
        """Whether a client can be reached now."""
        available = self._available(client)
        return available is None or available.rate(self.now) > 0

    def wait_for(self, clients: Collection[str], least: int) -> float:
        """Wait until so many of some clients can be reached at a time; return the seconds of it.

        Where that does not come about, no time passes.
        """
        began, away = self.now, [c for c in clients if not self.reachable(c)]
        for _ in range(MOST_WAITS):
            if not away or len(clients) - len(away) >= least:
                return self.now - began
            self.now = min(self._back(client) for client in away)
            away = [c for c in clients if not self.reachable(c)]
        self.now = began
        return 0.0

    def end_round(self, seconds: float) -> None:
        """A round has ended, so many seconds after the one before, and the next begins."""
        self.now = self._ended = self._ended + seconds

    def _available(self, client: str) -> Trace | None:
        traces = self.devices[client].traces
        return None if traces is None else traces.available

    def _back(self, client: str) -> float:
        available = self._available(client)
        return self.now if available is None else available.next_above_zero(self.now)

    def state_dict(self) -> StateDict:
        """``now``, between two rounds."""
        return {"now": self._ended}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state.

        Raises:
            StateError: its time is none.
        """
        now = tensors_and_values(state, ["now"])[1]["now"]
        is_time = type(now) in (int, float) and math.isfinite(now) and now >= 0
        require_value(is_time, "now", "is no time")
        self.now = self._ended = float(now)
