"""The messages of one local step, each entered in the ledger with the bytes that its shape says it must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.kept_rows import row_keys
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.privacy.client_side import ClientProtection
from atlas_cli.wire.codec import Codec
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients, HiddenStates, Rows

M = TypeVar("M", bound=HiddenStates)


class Serving(Protocol):
    """The part of a client that the server's side of a step calls, in whichever process the client computes."""

    name: str
    base: FrozenBase
    privacy: ClientProtection
    now: tuple[int, int]

    def answer_features(self, message: Features, labels: Tensor) -> tuple[FeatureGradients, StepLoss]:
        """As ``SplitClient.answer_features``."""


class _Sizes(NamedTuple):
    """Payloads by closed form."""

    activations: int
    features: int
    feature_gradients: int
    gradients: int


def exchange(
    server: SplitServer, client: Serving, batch: Batch, up: Activations, ledger: Ledger
) -> tuple[Gradients, StepLoss]:
    """Exchange the messages of one step, from the activations on: two, or four when labels stay on the client.

    Returns:
        The gradient message as its client receives it, and the loss.
    """
    sizes, codec = _sizes(server, client, batch), client.privacy.codec

    def sent(message: M, closed_form: int) -> M:
        wire = message if codec is None else codec.encode(message)
        ledger.count(wire, closed_form)
        return message if codec is None else codec.decode(wire, message)

    up = sent(up, sizes.activations)
    if server.training.labels == "server":
        down, loss = server.answer(up)
    else:
        back, loss = client.answer_features(sent(server.features(up), sizes.features), batch.labels)
        down = server.answer_gradients(sent(back, sizes.feature_gradients))
    if client.privacy.padding is not None:
        down = client.privacy.padding.cover(down, batch.attention_mask, *client.now)
    return sent(down, sizes.gradients), loss


def exchange_rows(server: SplitServer, client: Serving, batch: Batch, up: Activations, ledger: Ledger) -> StepLoss:
    """The messages of one step of a frozen client: activations and labels of those texts alone that the server does not
    have yet, without padding, and which texts the batch has; nothing comes back.

    Args:
        up: of the whole batch.
    """
    task, codec = server.task_of(client.name), client.privacy.codec
    width = _token_bytes(client.base, codec, server.base.hidden_size)
    keys = row_keys(batch, task)
    fresh = server.kept.missing(client.name, keys)
    received = up if codec is None else codec.decode(codec.encode(up), up)  # token by token, so alike in any batch
    lengths = batch.attention_mask.sum(1)
    alone = tuple(lengths[fresh].tolist())
    if fresh:
        real = batch.attention_mask[fresh].bool()
        hidden, labels = up.activations[fresh][real][None], batch.labels[fresh]
        if task.labels_a_token:
            labels = labels[real][None]
        message = Activations(client.name, hidden, labels=labels, lengths=lengths[fresh])
        closed_form = Activations.closed_form_of_texts(alone, width, task.blank_labels_of_texts(alone).nbytes)
        ledger.count(message if codec is None else codec.encode(message), closed_form)
    numbers = server.kept.keep(client.name, keys, lengths.tolist(), width)
    ledger.count(Rows(client.name, numbers), Rows.closed_form(len(keys)))
    return replace(server.learn(received), alone=alone, sent=bool(fresh))


def exchange_up(server: SplitServer, client: Serving, batch: Batch, up: Activations, ledger: Ledger) -> StepLoss:
    """The one message of a step of a client with a loss of its own, from which the server learns."""
    codec = client.privacy.codec
    wire = up if codec is None else codec.encode(up)
    ledger.count(wire, _sizes(server, client, batch).activations)
    return server.learn(up if codec is None else codec.decode(wire, up))


def exchange_all(
    server: SplitServer,
    clients: Sequence[Serving],
    batches: Sequence[Batch],
    ups: Sequence[Activations],
    ledger: Ledger,
) -> list[tuple[Gradients, StepLoss]]:
    """As ``exchange`` for several clients in one pass of the server, whose gradients are accepted."""
    sizes = [_sizes(server, client, batch) for client, batch in zip(clients, batches, strict=True)]
    for up, of_client in zip(ups, sizes, strict=True):
        ledger.count(up, of_client.activations)
    answers = server.answer_all(ups)
    for (down, _), of_client in zip(answers, sizes, strict=True):
        ledger.count(down, of_client.gradients)
    return answers


def _sizes(server: SplitServer, client: Serving, batch: Batch) -> _Sizes:
    (examples, tokens), hidden, codec = batch.input_ids.shape, server.base.hidden_size, client.privacy.codec
    labels = batch.labels.nbytes if server.training.labels == "server" else 0
    below, above = (_token_bytes(side.base, codec, hidden) for side in (client, server))  # features have the server's
    return _Sizes(
        Activations.closed_form(examples, tokens, below, labels),
        Features.closed_form(examples, tokens, above),
        FeatureGradients.closed_form(examples, tokens, above),
        Gradients.closed_form(examples, tokens, below),
    )


def _token_bytes(base: FrozenBase, codec: Codec | None, hidden: int) -> int:
    """Bytes of a token's hidden state that a half computed."""
    return hidden * base.dtype.itemsize if codec is None else codec.token_bytes(hidden)
