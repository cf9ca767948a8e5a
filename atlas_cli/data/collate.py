"""Builds padded batches from features, and chooses the examples of each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atlas_cli.seeding import numpy_generator
from atlas_cli.tasks.contract import BaseTask, Feature, example_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 8  # batches whose examples are sorted by length together


@dataclass
class Batch:
    """A batch padded on the right to its longest example.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64, 1 for real tokens.
        token_type_ids: (B, T) int64, or None where no example has a second segment.
        labels: as from ``BaseTask.label_tensor``.
        features: the B features; their ``meta`` is for the metric.
        numbers: which of the client's features these are; None where that is not said.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    labels: Tensor
    features: list[Feature]
    numbers: list[int] | None = None

    def inputs(self) -> dict[str, Tensor]:
        """What the model reads, by the names of a tokenizer.

        Where several sequences are of one example (windows), ``examples`` (B,) numbers the examples: DP-SGD clips each.
        """
        named = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        numbers = example_numbers(self.features)
        if len(set(numbers)) < len(numbers):
            named["examples"] = torch.tensor(numbers)
        return named if self.token_type_ids is None else {**named, "token_type_ids": self.token_type_ids}

    @property
    def original_ids(self) -> Tensor:
        """``input_ids`` as they were before a privacy mechanism replaced tokens, (B, T)."""
        found_BT = self.input_ids.clone()
        for row, feature in enumerate(self.features):
            if "original_ids" in feature:
                found_BT[row, : len(feature["original_ids"])] = torch.tensor(feature["original_ids"])
        return found_BT

    @property
    def n_examples(self) -> int:
        """The number of examples, B."""
        return len(self.features)

    @property
    def n_tokens(self) -> int:
        """Real tokens, without padding."""
        return sum(len(feature["input_ids"]) for feature in self.features)


def collate(
    task: BaseTask, features: Sequence[Feature], pad_token_id: int, multiple: int | None = None, most: int = 0
) -> Batch:
    """Pad features to the longest of them; without segments an example is segment 0 beside others that have them.

    Args:
        multiple: pad to a multiple of this many tokens, but not beyond ``most``.
    """
    if not features:
        none = torch.zeros(0, 0, dtype=torch.int64)
        return Batch(none, none, None, none[:, :0], [])
    lengths = [len(feature["input_ids"]) for feature in features]
    longest = max(lengths)
    if multiple is not None:
        longest = max(longest, min(most, -(-longest // multiple) * multiple))
    shape = (len(features), longest)
    input_ids_BT = torch.full(shape, pad_token_id, dtype=torch.int64)
    mask_BT = torch.zeros(shape, dtype=torch.int64)
    segmented = any("token_type_ids" in feature for feature in features)
    segments_BT = torch.zeros(shape, dtype=torch.int64) if segmented else None
    for row, (feature, length) in enumerate(zip(features, lengths, strict=True)):
        input_ids_BT[row, :length] = torch.tensor(feature["input_ids"])
        mask_BT[row, :length] = 1
        if segments_BT is not None and "token_type_ids" in feature:
            segments_BT[row, :length] = torch.tensor(feature["token_type_ids"])
    labels = task.require_labels(task.label_tensor(features, longest), *shape)
    return Batch(input_ids_BT, mask_BT, segments_BT, labels, list(features))


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, else the end token, else the unknown token, else 0.

    The mask hides it, so it only has to be a valid token.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    return next(token for token in candidates if token is not None)


def batch_indices(lengths: Sequence[int], batch_size: int, seed: int, client: str, step: int) -> list[int]:
    """The examples of a client's batch at ``step``, counted from 0 over the whole run.

    A pure function: an epoch is ceil(n / batch_size) steps, so that every example comes exactly once an epoch (one
    batch may be smaller) and a resumed run needs no sampler state. Examples are shuffled, sorted by length within a
    window of ``WINDOW`` batches so that little is padded, and the batches are shuffled again.
    """
    steps = -(-len(lengths) // batch_size)
    epoch, i = divmod(step, steps)
    generator = numpy_generator(seed, "batches", client, epoch)
    order = generator.permutation(len(lengths)).tolist()
    start = int(generator.permutation(steps)[i]) * batch_size
    window = start // (WINDOW * batch_size) * WINDOW * batch_size
    near = sorted(order[window : window + WINDOW * batch_size], key=lambda example: lengths[example])
    return near[start - window : start - window + batch_size]


def parts_of(task: BaseTask, features: Sequence[Feature]) -> list[list[int]]:
    """The features that come into a batch as one: each by itself, or all of a row where a task holds them together."""
    if not task.together:
        return [[i] for i in range(len(features))]
    rows: dict[int, list[int]] = {}
    for i, number in enumerate(example_numbers(features)):
        rows.setdefault(number, []).append(i)
    return list(rows.values())


def batch_features(
    task: BaseTask, features: Sequence[Feature], batch_size: int, seed: int, client: str, step: int
) -> list[Feature]:
    """The features of a client's batch at ``step``, by ``batch_indices``: at most ``batch_size``, or one row."""
    return [features[i] for i in batch_numbers(task, features, batch_size, seed, client, step)]


def batch_numbers(
    task: BaseTask, features: Sequence[Feature], batch_size: int, seed: int, client: str, step: int
) -> list[int]:
    """Which features these are."""
    parts = parts_of(task, features)
    lengths = [max(len(features[i]["input_ids"]) for i in part) for part in parts]
    size = max(1, batch_size // max(map(len, parts)))
    return [i for part in batch_indices(lengths, size, seed, client, step) for i in parts[part]]


def poisson_indices(count: int, rate: float, seed: int, client: str, step: int) -> list[int]:
    """The examples of a client's Poisson batch at ``step``: each independently with probability ``rate``."""
    draws = numpy_generator(seed, "poisson batches", client, step).random(count)
    return [i for i, draw in enumerate(draws.tolist()) if draw < rate]


def evaluation_batches(
    features: Sequence[Feature], batch_size: int, max_tokens: int | None = None, alone_above: int | None = None
) -> Iterator[list[int]]:
    """All examples once, longest first (ties in their order), so that little is padded.

    Args:
        batch_size: the most examples of a batch.
        max_tokens: the most tokens of a batch, padding included; an example that is longer is a batch of its own.
        alone_above: examples of more tokens share a batch with those of the same length only.
    """
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    start = 0
    while start < len(order):
        size = batch_size
        if max_tokens is not None:
            size = min(size, max(1, max_tokens // len(features[order[start]]["input_ids"])))
        batch, longest = order[start : start + size], len(features[order[start]]["input_ids"])
        if alone_above is not None and longest > alone_above:
            batch = [i for i in batch if len(features[i]["input_ids"]) == longest]
        yield batch
        start += len(batch)
