"""Which texts of frozen clients the server keeps activations and labels of, so that each is sent once, and their bytes.

A frozen half computes the same of a text in every epoch. The values are not kept here: in a simulation both ends are
one process, and ``engine.prefix_cache`` keeps what was computed. This is the record that decides what is sent, so it
is part of the server's state and goes on with a resumed run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atlas_cli.data.collate import Batch
from atlas_cli.storage.state_dict import StateDict, is_count, require_value
from atlas_cli.tasks.contract import BaseTask

_DIGEST = hashlib.sha256().digest_size


@dataclass
class _OfClient:
    """The texts of a client by hash, numbered as they came; their tokens, and the bytes (size) of their activations."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    tokens: int = 0
    size: int = 0


class KeptRows:
    """The texts of each client that the server has."""

    def __init__(self) -> None:
        self._clients: dict[str, _OfClient] = {}

    @property
    def tokens(self) -> dict[str, int]:
        """The tokens of each client's texts."""
        return {client: known.tokens for client, known in self._clients.items()}

    @property
    def size(self) -> int:
        """The bytes of all activations, as they were sent, without padding."""
        return sum(known.size for known in self._clients.values())

    def missing(self, client: str, keys: list[bytes]) -> list[int]:
        """The rows of a batch that have to be sent: of a text that comes twice, the first."""
        known = self._clients[client].numbers if client in self._clients else {}
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        return sorted(row for key, row in first.items() if key not in known)

    def keep(self, client: str, keys: list[bytes], lengths: Sequence[int], token_bytes: int) -> Tensor:
        """Keep the texts of a batch that are new; the number of each text of the batch (B,).

        Args:
            lengths: tokens of each text, without padding.
            token_bytes: of a token's activation as it is sent.
        """
        known = self._clients.setdefault(client, _OfClient())
        for key, length in zip(keys, lengths, strict=True):
            if key not in known.numbers:
                known.numbers[key] = len(known.numbers)
                known.tokens += length
                known.size += length * token_bytes
        return torch.tensor([known.numbers[key] for key in keys], dtype=torch.int64)

    def state_dict(self) -> StateDict:
        """``kept``: of each client the hashes of its ``texts`` in the order of their numbers, and their ``tokens`` and
        ``size`` in bytes; nothing where no client is frozen.

        Hashes are in hexadecimal, one string a client.
        """
        found = {
            client: {"texts": b"".join(known.numbers).hex(), "tokens": known.tokens, "size": known.size}
            for client, known in self._clients.items()
        }
        return {"kept": found} if found else {}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from ``kept``, which is taken out of a state.

        Raises:
            StateError: it is not what ``state_dict`` gives, or has a text twice.
        """
        kept = state.pop("kept", {})
        require_value(isinstance(kept, Mapping), "kept", "is no mapping")
        found: dict[str, _OfClient] = {}
        for client, of_client in kept.items():
            said: Mapping[str, Any] = of_client if isinstance(of_client, Mapping) else {}
            text, tokens, size = said.get("texts", ""), said.get("tokens", 0), said.get("size", 0)
            require_value(is_count(tokens) and is_count(size), f"kept.{client}", "has no counts of tokens and bytes")
            whole = isinstance(text, str) and re.fullmatch(f"([0-9a-f]{{{2 * _DIGEST}}})*", text)
            require_value(bool(whole), f"kept.{client}", "is not made of hashes")
            hashes = bytes.fromhex(text)
            parts = [hashes[i : i + _DIGEST] for i in range(0, len(hashes), _DIGEST)]
            numbers = {part: number for number, part in enumerate(parts)}
            require_value(len(numbers) == len(parts), f"kept.{client}", "has a text twice")
            found[client] = _OfClient(numbers, tokens, size)
        self._clients = found


def row_keys(batch: Batch, task: BaseTask) -> list[bytes]:
    """What each text of a batch is known by: the hash of its tokens, its labels, and its segments where it has two."""
    keys = []
    for row, length in enumerate(batch.attention_mask.sum(1).tolist()):
        key = hashlib.sha256(batch.input_ids[row, :length].numpy().tobytes())
        labels = batch.labels[row, :length] if task.labels_a_token else batch.labels[row]
        key.update(b"labels" + labels.numpy().tobytes())
        segments = None if batch.token_type_ids is None else batch.token_type_ids[row, :length]
        if segments is not None and segments.any():
            key.update(b"segments" + segments.numpy().tobytes())
        keys.append(key.digest())
    return keys
