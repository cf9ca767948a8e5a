"""A fingerprint of every client's task: its gradient of every lora_B on the shared initial adapter, sketched.

At B = 0 the gradient of B is s (dL/dW) A^T: the gradient of the frozen weights, projected by an A that is the same for
all clients. Heads are frozen and seeded alike, so that they do not tell clients apart; where numbers of classes
differ, they do. Only layers that all clients hold are used. Classes take turns in the batches: the bias of an untrained
head moves all texts alike, by as much as classes are unequal, and clients would be told apart by their label mix.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import collate, parts_of
from atlas_cli.errors import ConfigError
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.exchange import exchange
from atlas_cli.federation.parties.numerics import gradient_of
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.probe import probe
from atlas_cli.models.block_paths import layer_of
from atlas_cli.seeding import numpy_generator, torch_generator
from atlas_cli.tasks.contract import BaseTask, Feature
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Fingerprint

RANK = 8
MIN_EXAMPLES = 2


def fingerprint_round(
    federation: Federation, ledger: Ledger, batches: int = 24, size: int = 64, turn: int = 0
) -> dict[str, Tensor]:
    """The fingerprint (size,) of every client, the mean over ``batches``, through the real split.

    A client that has fewer examples uses each once. ``turn`` draws others.

    Nothing is stepped, and no party of the federation is changed. What crosses the wire is counted in ``ledger``: the
    steps' activations and gradients, and each client's fingerprint, 4 * size bytes up.

    Raises:
        ConfigError: a client with fewer than two examples, or a federation that is not split.
    """
    require_examples({client: federation.train_features(client) for client in federation.clients})
    return {client: _fingerprint(federation, client, ledger, batches, size, turn) for client in federation.clients}


def takes_fingerprints(config: ExperimentConfig) -> bool:
    """Whether a run of this config takes fingerprints."""
    rule = config.clustering
    return rule is not None and rule.by == "fingerprints" and config.mode not in ("local-only", "centralized")


def require_examples(train: Mapping[str, Sequence[Feature]]) -> None:
    """Check that a fingerprint can be taken of every client.

    Args:
        train: training examples by client.

    Raises:
        ConfigError: too few of one.
    """
    for client, features in train.items():
        if len(features) < MIN_EXAMPLES:
            raise ConfigError(
                f"client {client} has {len(features)} example; a fingerprint needs {MIN_EXAMPLES} or more"
            )


def _fingerprint(federation: Federation, client: str, ledger: Ledger, batches: int, size: int, turn: int) -> Tensor:
    group = federation.data[federation.group_of(client)]
    features, seed = group.train[client], federation.config.seed
    party, server = probe(federation, client, RANK, fresh=True)
    trained = server.groups[federation.group_of(client)]
    for holder, base in ((party, party.base), (trained, server.base)):  # on whichever side the head is
        if holder.head is not None:
            head = build_head(base, group.task, seed, "fingerprint", federation.device)
            holder.head = head.requires_grad_(False)
    sums: dict[str, Tensor] = {}
    if (noise := federation.protection.activation_noise(client)) is not None:
        counts = itertools.count()
        party.privacy.activations = lambda hidden, *_: noise(hidden, "fingerprint", turn, next(counts))
    party.wire = federation.plan.codecs(federation.plan.by_name[client])
    generator = numpy_generator(seed, "fingerprint", client, turn)
    if group.task.together:
        drawn = _whole_rows(group.task, features, batches, federation.batch_size(client), generator)
    else:
        drawn = draw(features, batches, federation.batch_size(client), generator, group.task.one_class)
    for rows in drawn:
        batch = collate(group.task, rows, federation.pad, *federation.padding)
        reply, _ = exchange(server, party, batch, party.forward_batch(batch, 0, 0), ledger)
        party.backward(party.wire.decode(reply).gradients)
        for path, adapter in party.adapters.adapters.items():
            if layer_of(path, federation.base.family) < federation.plan.cut:
                sums[path] = sums.get(path, torch.zeros_like(adapter.lora_B)) + gradient_of(adapter.lora_B) / len(drawn)
        for parameter in party.trained():
            parameter.grad = None
    fingerprint = sketch(sums, size, seed)
    if not fingerprint.any():
        raise ConfigError(f"the fingerprint of client {client} is zero: its batches give no gradient")
    if federation.protection.fingerprint_noise is not None:
        fingerprint = federation.protection.fingerprint_noise(fingerprint, client, turn)
    ledger.count(Fingerprint(client, fingerprint), Fingerprint.closed_form(size))
    return fingerprint


def draw(
    features: Sequence[Feature], batches: int, size: int, generator: np.random.Generator, one_class: bool
) -> list[list[Feature]]:
    """At most ``batches`` of ``size``, no example twice: one of each class by turns, until a class runs out.

    Examples that are not ``one_class`` each have no turns.
    """
    seen: Counter[Any] = Counter()
    turns = []
    for i in generator.permutation(len(features)).tolist():
        label = features[i]["labels"] if one_class else i
        turns.append((seen[label], i))
        seen[label] += 1
    chosen = [features[i] for _, i in sorted(turns, key=lambda turn: turn[0])][: batches * size]
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def _whole_rows(
    task: BaseTask, features: Sequence[Feature], batches: int, size: int, generator: np.random.Generator
) -> list[list[Feature]]:
    """At most ``batches`` of rows whose features belong together, no row twice."""
    parts = parts_of(task, features)
    rows = max(1, size // max(map(len, parts)))
    order = generator.permutation(len(parts)).tolist()[: batches * rows]
    chosen = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [[features[i] for part in batch for i in parts[part]] for batch in chosen]


def sketch(gradients: Mapping[str, Tensor], size: int = 64, seed: int = 0) -> Tensor:
    """Project named gradients onto ``size`` seeded directions, (size,) in float32; inner products stay, in expectation.

    A part at a time, so that no matrix is larger than ``size`` times the largest gradient. Drawn on the CPU, so that
    devices agree.
    """
    total = torch.zeros(size)
    for name, gradient in gradients.items():
        flat = gradient.detach().reshape(-1).float().cpu()
        directions = torch.randn(size, len(flat), generator=torch_generator(seed, "sketch", name, size))
        total += directions @ flat / size**0.5
    return total
