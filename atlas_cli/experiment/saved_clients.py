"""What every client holds, for checkpoints: looked at again only where a client was used since."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from atlas_cli.federation.client_state.offloaded import changes_in, moments_in
from atlas_cli.federation.federation import Federation
from atlas_cli.hashing import sha256_tensors

PARTS = ("held", "moments", "frozen")


class Kind(NamedTuple):
    """All that a checkpoint says of a client; clients of one kind are alike.

    Attributes:
        cluster, version, delivered_sha256: as in ``Member``.
        held: hash of what it exchanges.
        moments, frozen: hashes of its optimizers' moments and of the changes of its frozen weights; None: it has none.
    """

    cluster: str | None
    version: int
    delivered_sha256: str | None
    held: str
    moments: str | None
    frozen: str | None

    @property
    def contents(self) -> dict[str, str]:
        """By part, what it holds: ``<part>/<sha256>``."""
        return {part: f"{part}/{sha256}" for part in PARTS if (sha256 := getattr(self, part)) is not None}


class Copies:
    """Copies of what clients hold, by its hash: clients that hold the same have one, and it lasts as long as any do.

    What clients that are away hold is the store's, which nobody writes to.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}  # by client, in the order of the config
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._mark = 0

    def of_clients(self, federation: Federation) -> tuple[list[Kind], list[int], dict[str, Tensor]]:
        """The kinds of clients, the number of each client's kind, and the tensors of all, ``<part>/<sha256>/...``."""
        changed = federation.touched.since(self._mark) if self._kinds else federation.clients
        self._mark = federation.touched.mark
        follows: dict[object, str | None] = {}  # of those that hold their group's version, by group and ranks
        for name in changed:
            self._kinds[name] = self._kind(federation, name, follows)
        numbers: dict[Kind, int] = {}
        clients = [numbers.setdefault(kind, len(numbers)) for kind in self._kinds.values()]
        before, self._kept = self._kept, {}
        tensors: dict[str, Tensor] = {}
        for where in dict.fromkeys(content for kind in numbers for content in kind.contents.values()):
            sha256 = where.partition("/")[2]
            if sha256 in before:
                content = self._kept[sha256] = before[sha256]
            else:
                assert federation.offload is not None
                content = federation.offload.store.get(sha256)
            tensors |= {f"{where}/{n}": value for n, value in content.items()}
        return list(numbers), clients, tensors

    def _kind(self, federation: Federation, name: str, follows: dict[object, str | None]) -> Kind:
        member = federation.aggregator.members[name]
        facts = member.cluster, member.version, member.delivered_sha256
        if member.away is not None:
            return Kind(*facts, *member.away[:3])
        held = self._keep(member.held(), member.held_sha256())
        moments = self._own(moments_in(federation.clients[name]))
        if member.version != federation.aggregator.version[member.group]:
            return Kind(*facts, held, moments, self._own(changes_in(member)))
        alike = member.group, tuple(member.ranks.items())
        if alike not in follows:
            follows[alike] = self._own(changes_in(member))
        return Kind(*facts, held, moments, follows[alike])

    def _own(self, tensors: dict[str, Tensor]) -> str | None:
        return self._keep(tensors, sha256_tensors(tensors)) if tensors else None

    def _keep(self, tensors: dict[str, Tensor], sha256: str) -> str:
        if sha256 not in self._kept:
            self._kept[sha256] = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        return sha256
