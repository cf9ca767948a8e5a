"""Records when each client was last used, so that checkpoints look only at those again that may have changed."""

from __future__ import annotations

from collections.abc import Iterable


class LastUsed:
    """The clients that were used, in the order in which they last were.

    Attributes:
        now: counts up whenever clients are used; ``since`` of it names who was used later.
    """

    def __init__(self) -> None:
        self.now = 0
        self._used: dict[str, int] = {}  # the last used at the end

    def record(self, clients: Iterable[str]) -> None:
        """These are used now."""
        self.now += 1
        for client in clients:
            self._used.pop(client, None)
            self._used[client] = self.now

    def since(self, then: int) -> list[str]:
        """Clients that were used after ``now`` was ``then``; takes as long as there are such."""
        found = []
        for client, used in reversed(self._used.items()):
            if used <= then:
                break
            found.append(client)
        return found
