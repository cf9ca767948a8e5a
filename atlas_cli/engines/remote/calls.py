"""How an engine calls clients that compute elsewhere: a named method, with tensors, and a result or a typed failure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from atlas_cli.engines.remote.host import Answer, NotFinite, PluginFailed


@dataclass(frozen=True)
class LostCall:
    """A call that will not be answered, with the reason."""

    reason: str


Result = Answer | NotFinite | PluginFailed | LostCall


class Calls(Protocol):
    """Calls of ``ClientHost`` methods; a client has at most one call under way, and a new one replaces it."""

    def place(self, client: str) -> int:
        """The process that serves a client in this round."""

    def start(self, client: str, method: str, *args: Any) -> None:
        """Call a method for a client without waiting for the answer."""

    def next(self, clients: Collection[str]) -> tuple[str, Result]:
        """Wait for the next of these clients, each with a call under way, to answer or be lost."""
