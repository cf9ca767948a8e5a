"""Records when each client was last used, so that checkpoints hash only those clients again."""

from __future__ import annotations

from collections.abc import Iterable


class LastUsed:
    """The clients that were used, ordered by their last use.

    Attributes:
        now: a counter that grows whenever clients are used; ``since(now)`` gives the clients used later.
    """

    def __init__(self) -> None:
        self.now = 0
        self._used: dict[str, int] = {}  # the last used at the end

    def record(self, clients: Iterable[str]) -> None:
        """Record that these clients are used now."""
        self.now += 1
        for client in clients:
            self._used.pop(client, None)
            self._used[client] = self.now

    def since(self, then: int) -> list[str]:
        """Clients that were used after ``now`` was ``then``; the time needed grows with their number."""
        found = []
        for client, used in reversed(self._used.items()):
            if used <= then:
                break
            found.append(client)
        return found
