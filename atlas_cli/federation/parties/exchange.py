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
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients, HiddenStates, Rows
from atlas_cli.wire.step_codecs import EXAMPLE_BYTES, StepCodecs

M = TypeVar("M", bound=HiddenStates)


class Serving(Protocol):
    """The part of a client that the server's side of a step calls, in whichever process the client computes."""

    name: str
    base: FrozenBase
    privacy: ClientProtection
    wire: StepCodecs
    now: tuple[int, int]

    def answer_features(self, message: Features, labels: Tensor) -> tuple[FeatureGradients, StepLoss]:
        """As ``SplitClient.answer_features``, of the messages as they cross the wire."""


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

    Args:
        up: as it crosses the wire.

    Returns:
        The gradient message as it crosses the wire, and the loss.
    """
    sizes, wire = _sizes(server, client, batch), client.wire

    def sent(message: M, closed_form: int) -> M:
        ledger.count(message, closed_form)
        return message

    received = wire.decode(sent(up, sizes.activations))
    if server.training.labels == "server":
        down, loss = server.answer(received)
    else:
        features = sent(wire.encode(server.features(received), client.now), sizes.features)
        back, loss = client.answer_features(features, batch.labels)
        down = server.answer_gradients(wire.decode(sent(back, sizes.feature_gradients)))
    if client.privacy.padding is not None:
        down = client.privacy.padding.cover(down, batch.attention_mask, *client.now)
    return sent(wire.encode(down, client.now), sizes.gradients), loss


def exchange_rows(server: SplitServer, client: Serving, batch: Batch, up: Activations, ledger: Ledger) -> StepLoss:
    """The messages of one step of a frozen client: activations and labels of those texts alone that the server does not
    have yet, without padding, and which texts the batch has; nothing comes back.

    Args:
        up: of the whole batch, as it would cross the wire: a codec of a frozen client encodes each token alone, so that
            a part of it is what would be sent of that part.
    """
    task, wire = server.task_of(client.name), client.wire
    keys = row_keys(batch, task)
    fresh = server.kept.missing(client.name, keys)
    received = wire.decode(up)
    lengths = batch.attention_mask.sum(1)
    alone = tuple(lengths[fresh].tolist())
    width = wire.payload_bytes("activations", 1, 1)
    if fresh:
        real = batch.attention_mask[fresh].bool()
        hidden, labels = up.activations[fresh][real][None], batch.labels[fresh]
        parts = {name: part[fresh][real][None] for name, part in up.parts.items()}
        if task.labels_a_token:
            labels = labels[real][None]
        message = replace(
            up, activations=hidden, parts=parts, attention_mask=None, labels=labels, lengths=lengths[fresh]
        )
        closed_form = Activations.closed_form_of_texts(alone, width, task.blank_labels_of_texts(alone).nbytes)
        ledger.count(message, closed_form)
    numbers = server.kept.keep(client.name, keys, lengths.tolist(), width)
    ledger.count(Rows(client.name, numbers, compact=wire.compact), Rows.closed_form(len(keys)))
    return replace(server.learn(received), alone=alone, sent=bool(fresh))


def exchange_up(server: SplitServer, client: Serving, batch: Batch, up: Activations, ledger: Ledger) -> StepLoss:
    """The one message of a step of a client with a loss of its own, from which the server learns.

    Args:
        up: as it crosses the wire.
    """
    ledger.count(up, _sizes(server, client, batch).activations)
    return server.learn(client.wire.decode(up))


def exchange_all(
    server: SplitServer,
    clients: Sequence[Serving],
    batches: Sequence[Batch],
    ups: Sequence[Activations],
    ledger: Ledger,
) -> list[tuple[Gradients, StepLoss]]:
    """As ``exchange`` for several clients in one pass of the server."""
    answers = server.answer_all(ups)
    enter_all(server, clients, batches, ups, [down for down, _ in answers], ledger)
    return answers


def enter_all(
    server: SplitServer,
    clients: Sequence[Serving],
    batches: Sequence[Batch],
    ups: Sequence[Activations],
    downs: Sequence[Gradients],
    ledger: Ledger,
) -> None:
    """Enter the messages of a pass of several clients in the ledger."""
    sizes = [_sizes(server, client, batch) for client, batch in zip(clients, batches, strict=True)]
    for up, of_client in zip(ups, sizes, strict=True):
        ledger.count(up, of_client.activations)
    for down, of_client in zip(downs, sizes, strict=True):
        ledger.count(down, of_client.gradients)


def _sizes(server: SplitServer, client: Serving, batch: Batch) -> _Sizes:
    (rows, tokens), wire, numbers = batch.input_ids.shape, client.wire, batch.numbers
    labels = batch.labels.nbytes if server.training.labels == "server" else 0
    labels += EXAMPLE_BYTES * rows if wire.numbered and numbers is not None else 0

    def states(kind: str) -> int:
        return wire.payload_bytes(kind, rows, tokens, numbers or [])

    return _Sizes(
        states("activations") + Activations.closed_form(rows, tokens, 0, labels),
        states("features") + Features.closed_form(rows, tokens, 0),
        states("feature-gradients") + FeatureGradients.closed_form(rows, tokens, 0),
        states("gradients") + Gradients.closed_form(rows, tokens, 0),
    )
