"""The messages of one local step, each entered in the ledger with the bytes that its shape says it must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from atlas_cli.data.collate import Batch
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.protocol import Ledger, Message, activation_bytes
from atlas_cli.federation.server import SplitServer
from atlas_cli.federation.server_pass import answer_all
from atlas_cli.federation.trainables import StepLoss


class _Sizes(NamedTuple):
    """Payloads by closed form."""

    up: int
    features: int
    gradients: int


def exchange(
    server: SplitServer, client: SplitClient, batch: Batch, round_number: int, step: int, ledger: Ledger
) -> tuple[Message, StepLoss]:
    """The messages of one step: two, or four when labels stay on the client; the gradient message and the loss."""
    labels = batch.labels if server.training.labels == "server" else None
    return reply(server, client, batch, client.forward(batch.inputs(), round_number, step, labels), ledger)


def reply(
    server: SplitServer, client: SplitClient, batch: Batch, up: Message, ledger: Ledger
) -> tuple[Message, StepLoss]:
    """What follows an activation message: the gradient message and the loss."""
    sizes = _sizes(server, client, batch)
    ledger.count(up, sizes.up)
    if server.training.labels == "server":
        down, loss = server.answer(up)
    else:
        features = server.features(up)
        ledger.count(features, sizes.features)
        back, mean, count = client.answer_features(features, batch.labels)
        loss = StepLoss(mean, count)
        ledger.count(back, sizes.features + 8)
        down = server.answer_gradients(back)
    ledger.count(down, sizes.gradients)
    return down, loss


def reply_to_all(
    server: SplitServer,
    clients: Sequence[SplitClient],
    batches: Sequence[Batch],
    ups: Sequence[Message],
    ledger: Ledger,
) -> list[tuple[Message, StepLoss]]:
    """As ``reply`` to each in one pass of the server, whose gradients are accepted; labels are with the server."""
    sizes = [_sizes(server, client, batch) for client, batch in zip(clients, batches, strict=True)]
    for up, of_client in zip(ups, sizes, strict=True):
        ledger.count(up, of_client.up)
    answers = answer_all(server, ups)
    for (down, _), of_client in zip(answers, sizes, strict=True):
        ledger.count(down, of_client.gradients)
    return answers


def _sizes(server: SplitServer, client: SplitClient, batch: Batch) -> _Sizes:
    (examples, tokens), hidden = batch.input_ids.shape, server.base.hidden_size
    element = client.base.dtype.itemsize
    labels = batch.labels.numel() if server.training.labels == "server" else 0
    return _Sizes(
        up=activation_bytes(examples, tokens, hidden, element, labels),
        features=examples * tokens * hidden * server.base.dtype.itemsize,  # features keep the server's dtype
        gradients=examples * tokens * hidden * element,
    )
