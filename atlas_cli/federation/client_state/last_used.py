"""Which clients were used since when, so that nothing has to look at all of them to find those that changed."""

from __future__ import annotations

from collections.abc import Iterable


class Touched:
    """The clients that may have changed, in the order in which they were last used.

    Attributes:
        mark: the present; ``since`` of it names who was used later.
    """

    def __init__(self) -> None:
        self.mark = 0
        self._used: dict[str, int] = {}  # the last used at the end

    def add(self, clients: Iterable[str]) -> None:
        """These are used now."""
        self.mark += 1
        for client in clients:
            self._used.pop(client, None)
            self._used[client] = self.mark

    def since(self, mark: int) -> list[str]:
        """Clients that were used after ``mark`` was read; takes as long as there are such."""
        found = []
        for client, used in reversed(self._used.items()):
            if used <= mark:
                break
            found.append(client)
        return found
