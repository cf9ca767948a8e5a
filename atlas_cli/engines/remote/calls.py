"""How an engine calls clients that compute elsewhere: a named method, with tensors, and a result or a typed failure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from atlas_cli.engines.remote.host import Answer, NotFinite


@dataclass(frozen=True)
class LostCall:
    """A call that will have no answer, and why."""

    reason: str


Result = Answer | NotFinite | LostCall


class Calls(Protocol):
    """Calls of ``ClientHost`` methods; a client has one under way at most, and a new one replaces it."""

    def place(self, client: str) -> int:
        """Which process serves a client in this round."""

    def start(self, client: str, method: str, *args: Any) -> None:
        """Call a method for a client, and do not wait."""

    def next(self, clients: Collection[str]) -> tuple[str, Result]:
        """The next of these clients, each with a call under way, that answers or is lost."""
