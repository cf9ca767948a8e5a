"""Measured memory: bytes that autograd saves for backward, and bytes of a party's own tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from atlas_cli.models.frozen.row_embedding import row_embeddings


@dataclass
class SavedBytes:
    """Filled in by ``saved_bytes``: unique bytes that the graph holds for backward, weights left out."""

    total: int = 0


@contextmanager
def saved_bytes(weights: Iterable[Tensor]) -> Iterator[SavedBytes]:
    """Count the bytes saved for backward inside the block, each storage once; ``weights`` are left out."""
    counted = SavedBytes()
    # addresses stay unique because the graph keeps every storage that it saved alive
    seen = {w.untyped_storage().data_ptr() for w in weights}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            counted.total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counted


@contextmanager
def saved_if_measured(usage: Usage | None, weights: Iterable[Tensor]) -> Iterator[SavedBytes]:
    """As ``saved_bytes`` if the party's memory is measured; without ``usage`` nothing is counted."""
    if usage is None:
        yield SavedBytes()
        return
    with saved_bytes(weights) as counted:
        yield counted


def tensor_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of tensors, a shared storage counted once."""
    sizes = {t.data_ptr(): t.numel() * t.element_size() for t in tensors if t is not None}
    return sum(sizes.values())


def _frozen(half: nn.Module, tokens: Tensor | None) -> list[Tensor]:
    """What a party holds of a half; an embedding by the row has the rows of all clients in this process."""
    tensors = [*half.parameters(), *half.buffers()]
    if tokens is None:
        return tensors
    (shared,) = row_embeddings(half)
    of_all = {id(t) for t in (*shared.parameters(), *shared.buffers())}
    return [*(t for t in tensors if id(t) not in of_all), *shared.only(tokens)]


@dataclass
class Usage:
    """Bytes of one party, each measured from the tensors themselves.

    Activations are the largest of the measured steps; ``batch_client``: whose batch a server had. ``embedding_rows``
    are those of the token embedding, which are part of ``frozen_weights``; None for the whole table.
    ``kept_activations`` are those that a server keeps of texts of frozen clients, of ``kept_tokens`` by client;
    ``kept_texts`` what codecs keep of texts, of ``text_tokens`` tokens at a client, and ``kept_adapters`` of adapters
    and heads, at a server those of all clients; None where they keep nothing.
    """

    frozen_weights: int = 0
    adapters: int = 0
    heads: int = 0
    gradients: int = 0
    optimizer: int = 0
    saved_activations: int = 0
    cut_buffers: int = 0
    batch_size: int = 0
    batch_tokens: int = 0
    batch_client: str | None = None
    embedding_rows: int | None = None
    kept_activations: int = 0
    kept_tokens: dict[str, int] | None = None
    kept_texts: int | None = None
    text_tokens: int | None = None
    kept_adapters: int | None = None

    @classmethod
    def held(
        cls, half: nn.Module, adapters: Iterable[Tensor], head: Iterable[Tensor], tokens: Tensor | None = None
    ) -> Usage:
        """Bytes held before any step; tensors that head and half share count as the half's.

        Args:
            tokens: whose rows of the embedding it holds, where the half has an embedding by the row.
        """
        frozen = _frozen(half, tokens)
        known = {t.data_ptr() for t in frozen}
        return cls(
            tensor_bytes(frozen),
            tensor_bytes(adapters),
            tensor_bytes(t for t in head if t.data_ptr() not in known),
            embedding_rows=None if tokens is None else len(tokens),
        )

    def add_step(self, saved: int, cut: int, batch: int, tokens: int, client: str | None = None) -> None:
        """Add a step; the step that saved most is kept."""
        if saved + cut > self.saved_activations + self.cut_buffers:
            self.saved_activations, self.cut_buffers = saved, cut
            self.batch_size, self.batch_tokens, self.batch_client = batch, tokens, client

    def record(self) -> dict[str, object]:
        """For memory.json, where what is kept of texts and adapters is part of ``cut_buffers``."""
        numbers = asdict(self)
        kept, tokens_kept = numbers.pop("kept_activations"), numbers.pop("kept_tokens")
        names = ("embedding_rows", "kept_texts", "text_tokens", "kept_adapters")
        more = {name: numbers.pop(name) for name in names}
        numbers["cut_buffers"] += kept + (more["kept_texts"] or 0) + (more["kept_adapters"] or 0)
        size, tokens, client = (numbers.pop(f"batch_{name}") for name in ("size", "tokens", "client"))
        batch = {"size": size, "tokens": tokens, **({} if client is None else {"client": client})}
        found = {name: value for name, value in more.items() if value is not None}
        of_kept = {} if tokens_kept is None else {"kept_activations": kept, "kept_tokens": tokens_kept}
        total = sum(numbers.values())
        return {**numbers, "total": total, **found, **of_kept, "batch": batch}
