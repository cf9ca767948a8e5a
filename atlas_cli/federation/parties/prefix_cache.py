"""Outputs of the frozen blocks below a client's lowest adapter, kept by text, so that each text passes them once.

The base is frozen and in evaluation mode, so these blocks give the same output for a text in every epoch. Each text is
computed alone and without padding: the cached output does not depend on the batch in which it first occurred, so a
resumed run, or
one with less memory, computes the same numbers bit for bit. Against batches that are computed whole they differ by
rounding.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.split import run_half
from atlas_cli.models.halves.transfer import to_device
from atlas_cli.notes import say
from atlas_cli.storage.scratch_folders import PREFIX_CACHE
from atlas_cli.storage.tensor_files import TensorFiles


class PrefixCache:
    """Tensors by key, in memory while they fit and in files after that; no entry is ever evicted.

    Examples come in another order each epoch, so a least-recently-used rule would write and read all the time.

    Args:
        memory: bytes that tensors in memory may take.
        parent: where a folder is made for the files, once there is one; ``close`` removes it.
    """

    def __init__(self, memory: int, parent: Path) -> None:
        self.memory = memory
        self.memory_bytes = self.disk_bytes = self.hits = self.misses = self.damaged = 0
        self.disk_error: str | None = None
        self._in_memory: dict[str, Tensor] = {}
        self._files = TensorFiles(parent, PREFIX_CACHE)
        self._written: dict[str, tuple[int, str]] = {}  # bytes of the file and hash of its tensor, by key

    def get(self, key: str, device: torch.device) -> Tensor | None:
        """The tensor of a key on ``device``; None, a miss, if there is no entry or its file was changed."""
        found = to_device(self._in_memory[key], device) if key in self._in_memory else self._read(key, device)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: str, tensor: Tensor) -> None:
        """Store a tensor; one that fits neither in memory nor on the disk is computed again when it is needed."""
        size = tensor.numel() * tensor.element_size()
        if self.memory_bytes + size <= self.memory:
            self._in_memory[key] = tensor.clone()  # a slice would keep the whole alive
            self.memory_bytes += size
        elif self.disk_error is None:
            self._write(key, tensor)

    def record(self) -> dict[str, object]:
        """For the manifest."""
        names = ("memory_bytes", "disk_bytes", "hits", "misses", "damaged", "disk_error")
        return {name: getattr(self, name) for name in names}

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._in_memory.clear()
        self._written.clear()
        self._files.close()

    def _read(self, key: str, device: torch.device) -> Tensor | None:
        if key not in self._written:
            return None
        size, sha256 = self._written[key]
        try:
            return to_device(self._files.read(key, sha256)["outputs"], device)
        except OSError as error:
            if not self.damaged:
                where = self._files.path(key)
                say(f"note: {where} cannot be used ({error}); computing it anew")
            self.damaged += 1
            self.disk_bytes -= size
            del self._written[key]
            return None

    def _write(self, key: str, tensor: Tensor) -> None:
        try:
            size = self._files.write(key, {"outputs": tensor})
        except OSError as error:
            self.disk_error = error.strerror or type(error).__name__
            return
        self._written[key] = size, sha256_tensors({"outputs": tensor})
        self.disk_bytes += size


class Prefix:
    """The blocks of a client below ``first``, which never change, run through a cache; and the part of its half above.

    Args:
        cache: None computes each text each time.
        first: the lowest block that may change; above 0.
        autocast: precision of the forward, as ``training.autocast`` has it.
    """

    def __init__(
        self, cache: PrefixCache | None, base: FrozenBase, adapters: AdapterSet, first: int, cut: int, autocast: str
    ) -> None:
        self.cache, self.base, self.adapters, self.first = cache, base, adapters, first
        self._lower, self.upper = base.client_half(first), base.between(first, cut)
        weights = (base.sha256, str(base.dtype), base.quantization, base.fused_gelu, first, autocast)
        self._weights = hashlib.sha256(repr(weights).encode())

    def outputs(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor | None:
        """The input of block ``first``: (B, T, D), 0 for padding; None if the whole half has to run.

        The whole half runs for embeddings instead of tokens, padding that is not on the right, a row without tokens,
        and after a change of the frozen weights below ``first``.
        """
        if "input_ids" not in inputs or any(layer_of(p, self.base.family) < self.first for p in self.adapters.frozen):
            return None
        tensors = {name: tensor.cpu() for name, tensor in inputs.items()}
        lengths = mask.sum(1).tolist()
        on_the_right = torch.arange(mask.shape[1]) < torch.tensor(lengths)[:, None]
        if 0 in lengths or not mask.cpu().bool().equal(on_the_right):
            return None
        padded: Tensor | None = None
        for i, length in enumerate(lengths):
            named = {name: tensor[i : i + 1, :length] for name, tensor in inputs.items()}
            row = self._found(named, {name: tensor[i, :length] for name, tensor in tensors.items()})
            if padded is None:
                padded = row.new_zeros(*mask.shape, row.shape[-1])
            padded[i, :length] = row
            del row  # not alive while the next is computed
        return padded

    def _found(self, row: dict[str, Tensor], on_cpu: dict[str, Tensor]) -> Tensor:
        """The output of one text, from the cache or computed."""
        if self.cache is None:
            return self._computed(row)
        key = self._key(on_cpu)
        found = self.cache.get(key, row["input_ids"].device)
        if found is None:
            found = self._computed(row)
            self.cache.put(key, found)
        return found

    @torch.no_grad()
    def _computed(self, row: dict[str, Tensor]) -> Tensor:
        mask = torch.ones_like(row["input_ids"])
        return run_half(self._lower, mask, **row)[0]

    def _key(self, row: dict[str, Tensor]) -> str:
        key = self._weights.copy()
        key.update(row["input_ids"].numpy().tobytes())
        segments = row.get("token_type_ids")
        if segments is not None and segments.any():  # segment 0 alone is the same as none
            key.update(b"segments" + segments.numpy().tobytes())
        return key.hexdigest()
