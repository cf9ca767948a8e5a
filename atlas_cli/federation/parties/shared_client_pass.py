"""Several clients in one pass over the frozen blocks that they share, each with its own adapters on its own tokens.

A row of real tokens (``models.halves.real_tokens``), adapters by segment (``models.adapters.per_client_rows``): what a
client sends, and the gradients of its adapters, are those of a pass of its own, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.numerics import require_finite
from atlas_cli.federation.parties.party import as_inputs
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.models.adapters.per_client_rows import Segment
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses, PassRows
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.real_tokens import Packing, positions_of
from atlas_cli.wire.messages import Activations, Gradients


class ClientPass:
    """One local step of clients with the same blocks and one cut, with a prefix of the same length or without.

    Args:
        clients: in the order of the row; none with dropout or activation checkpointing. Where some hold rows of the
            token embedding and others its table, all tokens take theirs, which are the same, from the table.
        graphs: replay it where they can.

    Attributes:
        base: with whose modules it is computed; that of the clients unless another is set.
    """

    def __init__(self, clients: Sequence[SplitClient], graphs: GraphedPasses | None = None) -> None:
        self.clients, self._graphs = list(clients), graphs
        self._any = next((client for client in clients if client.base.embedding == "table"), self.clients[0])
        self.base: FrozenBase = self._any.base
        self._packings: list[Packing] = []
        self._rows_ND = torch.empty(0)

    def forward(self, batches: Sequence[Batch], round_number: int, step: int) -> list[Activations]:
        """The activation messages, padded as each client would send them, with the labels that are sent."""
        first, inputs, positions, masks = self._any, [], [], []
        half = self.base.client_half(first.cut) if first.prefix is None else first.prefix.upper
        self._packings = []
        for client, batch in zip(self.clients, batches, strict=True):
            client.begin_step(round_number, step)
            named, mask = as_inputs(batch.inputs(), client.device)
            packing = Packing.of(mask)
            numbers = packing.positions
            if client.prefix is None:
                numbers = positions_of(client.base.model, packing, named["input_ids"])
            else:
                below = client.prefix.outputs(named, mask)
                assert below is not None, "collated batches have a prefix"
                named = {"inputs_embeds": below}
            inputs.append({name: packing.pack(tensor) for name, tensor in named.items()})
            positions.append(numbers)
            masks.append(mask)
            self._packings.append(packing)
        kinds = {name for each in inputs for name in each}  # a batch without second segments has no token_type_ids
        rows = {
            name: torch.cat([each.get(name, torch.zeros_like(n)) for each, n in zip(inputs, positions, strict=True)])
            for name in kinds
        }
        lengths = [length for packing in self._packings for length in packing.lengths]
        segments = [Segment(c.adapters, p.tokens) for c, p in zip(self.clients, self._packings, strict=True)]
        row = PassRows(self.base, half, segments, lengths, torch.cat(positions), rows)
        found = None if self._graphs is None else self._graphs.replay(row)
        self._rows_ND = row.compute() if found is None else found
        sent = self._rows_ND.detach().split([packing.tokens for packing in self._packings])
        stays = first.training.labels == "client"
        return [
            client.send(packing.unpack(rows), mask, None if stays else batch.labels)
            for client, packing, rows, mask, batch in zip(
                self.clients, self._packings, sent, masks, batches, strict=True
            )
        ]

    def backward(self, messages: Sequence[Gradients]) -> None:
        """Back-propagate the gradients that the server returned into each client's adapters."""
        for client, message in zip(self.clients, messages, strict=True):
            require_finite(message.gradients, f"gradient sent to {client.when}")
        rows_ND, self._rows_ND = self._rows_ND, torch.empty(0)
        rows_ND.backward(torch.cat([p.pack(m.gradients) for p, m in zip(self._packings, messages, strict=True)]))
        for client in self.clients:
            client.finish_gradients(*client.now)
