"""Measures the memory of all parties in one round, for memory.json."""

from __future__ import annotations

from collections.abc import Collection

from atlas_cli.experiment.reference_memory import reference_memory
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.measured_memory import Usage
from atlas_cli.runs.record_files import RecordFiles
from atlas_cli.runs.seals import MEMORY


class MeasuredRound:
    """The measurement of one round: of the clients that begin it, and of the server."""

    def __init__(self, federation: Federation, number: int, present: Collection[str]) -> None:
        self.federation, self.number = federation, number
        self._usages: dict[str, Usage] = {name: federation.clients[name].measure() for name in present}
        federation.server.measure()

    def end(self, files: RecordFiles | None) -> None:
        """Write the measurements, and stop measuring."""
        if files is not None:
            files.write_json(MEMORY, self.record())
            files.memory_is_missing = False
        for name in self._usages:
            self.federation.clients[name].usage = None
        self.federation.server.usage = None

    def record(self) -> dict[str, object]:
        """The content of memory.json."""
        of_server = self.federation.server.usage
        clients = {name: usage for name, usage in self._usages.items() if usage.batch_size}
        idle = [name for name in self._usages if name not in clients]
        if of_server is not None and not of_server.batch_size:
            of_server = None
            idle.append("the server")
        return {
            "unit": "bytes",
            "measured_in_round": self.number,
            "clients": {name: usage.record() for name, usage in clients.items()},
            "server": of_server.record() if of_server is not None else None,
            "not_measured": idle,
            "references": reference_memory(self.federation, list(clients.values())),
        }
