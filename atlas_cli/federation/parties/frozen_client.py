"""A client that does not learn (SplitFrozen, 2503.18986): a frozen half, and no gradient that comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.exchange import exchange_rows
from atlas_cli.federation.parties.party import Inputs
from atlas_cli.federation.parties.prefix_cache import Prefix
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations


class FrozenClient(SplitClient):
    """A client of a split without adapters, head or optimizer; the server trains on what it sends.

    Each text is computed alone and without padding, so that what is sent of it once is what it would send in any batch.
    """

    alone = True

    def __init__(
        self, name: str, base: FrozenBase, cut: int, ranks: Mapping[str, int], setting: Setting, **arguments: Any
    ) -> None:
        super().__init__(name, base, cut, ranks, setting, **arguments)
        self.prefix = Prefix(None, base, self.adapters, cut, cut, setting.training.autocast)

    def local_step(
        self, batch: Batch, round_number: int, step: int, rate_factor: float, server: SplitServer, ledger: Ledger
    ) -> StepLoss:
        """One local step: its forward and the server's step."""
        return exchange_rows(server, self, batch, self.forward_batch(batch, round_number, step), ledger)

    def forward(self, batch: Inputs, round_number: int, step: int, labels: Tensor | None) -> Activations:
        """The activation message of a batch, of which nothing is kept for a backward."""
        message = super().forward(batch, round_number, step, labels)
        self._activations = self._mask = None
        return message

    def _measured(self, saved: int, at_cut: Tensor) -> None:
        if self.usage is not None:  # nothing comes back
            self.usage.add_step(saved, at_cut.nbytes, at_cut.shape[0], at_cut.shape[0] * at_cut.shape[1])
