"""What crosses the cut while text is generated: messages by pass, each counted against its closed form.

    pass        up                                      down
    the first   activations (B, T, D) and mask (B, T)   tokens (B,)
    others      activations (B, 1, D)                   tokens (B,)

The server has the head and chooses tokens; with ``labels: client`` the client has it, and gets features (B, 1, D) of
the last token instead. B are rows: each text as often as there are beams, whose order goes with the tokens, or up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, BeamOrder, Features, Tokens

Sent = Callable[[Tensor, Tensor, int], Tensor]


class Cut:
    """Passes what the lower half computes to the upper half, in the upper half's dtype, and back.

    Args:
        dtypes: of the two halves, from below.
        hidden_size: D.
        client: who generates, in the ledger.
        head_at_client: whether tokens are chosen there.
        beams: how many are searched.
        ledger: counts the messages; None: nothing is sent.
        sent: what is sent instead of activations, of them, their mask and the number of the pass.

    Attributes:
        steps: passes since ``begin``.
    """

    def __init__(
        self,
        dtypes: tuple[torch.dtype, torch.dtype],
        hidden_size: int,
        *,
        client: str = "",
        head_at_client: bool = False,
        beams: int = 1,
        ledger: Ledger | None = None,
        sent: Sent | None = None,
    ) -> None:
        self.dtypes, self.hidden_size, self.client = dtypes, hidden_size, client
        self.head_at_client, self.beams, self.ledger, self._sent = head_at_client, beams, ledger, sent
        self.rows = self.tokens = self.steps = self._passes = 0

    def begin(self, rows: int, tokens: int) -> None:
        """A batch begins: so many rows with prompts of so many tokens."""
        self.rows, self.tokens, self.steps = rows, tokens, 0

    def up(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What the upper half gets of the lower half's outputs (B, T, D)."""
        real = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device) if mask is None else mask
        if self._sent is not None:
            hidden = self._sent(hidden, real, self._passes)
        if self.ledger is not None:
            self._count_up(self.ledger, hidden, real.bool())
        self.steps, self._passes = self.steps + 1, self._passes + 1
        return hidden.to(self.dtypes[1])

    def down(self, hidden: Tensor) -> Tensor:
        """What the head gets of the upper half's outputs (B, 1, D)."""
        if self.ledger is not None:
            self._count_down(self.ledger, hidden)
        return hidden

    def _count_up(self, ledger: Ledger, hidden: Tensor, mask: Tensor) -> None:
        first, width = self.steps == 0, self.hidden_size * self.dtypes[0].itemsize
        tokens = self.tokens if first else 1
        message = Activations(self.client, hidden, mask if first else None)
        ledger.count(message, Activations.closed_form(self.rows, tokens, width, 0, masked=first))
        if self.head_at_client and self.beams > 1 and not first:
            ledger.count(BeamOrder(self.client, self._numbers()), BeamOrder.closed_form(self.rows))

    def _count_down(self, ledger: Ledger, hidden: Tensor) -> None:
        if self.head_at_client:
            width = self.hidden_size * self.dtypes[1].itemsize
            ledger.count(Features(self.client, hidden), Features.closed_form(self.rows, 1, width))
            return
        numbers, searched = self._numbers(), self.beams > 1
        message = Tokens(self.client, numbers, numbers if searched else None)
        ledger.count(message, Tokens.closed_form(self.rows, searched))

    def _numbers(self) -> Tensor:
        """As large as one number a row; the size of a message needs no values."""
        return torch.empty(self.rows, dtype=torch.int64, device="meta")
