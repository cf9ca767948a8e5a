"""Randomness without state: every generator is derived from hash(seed, purpose, ...).

A run so depends on neither timing nor the order of clients, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the experiment seed and what it is for, e.g. ``derive(0, "batches", "phone-1", 3)``."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator for one purpose."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive(seed, *purpose)))


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; draw on the CPU and move, so that devices agree."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def forked(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Seed torch's global generators (dropout uses them) inside the block and restore them after it."""
    with seeded(derive(seed, *purpose), device):
        yield


@contextmanager
def seeded(number: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """As ``forked``, with a number that is the seed itself, as ``torch.manual_seed`` takes it."""
    import torch

    kind = torch.device(device).type
    devices = [] if kind == "cpu" else list(range(getattr(torch, kind).device_count()))
    with torch.random.fork_rng(devices=devices, device_type="cuda" if kind == "cpu" else kind):
        if kind == "cpu":  # torch.manual_seed seeds accelerators, too, and formats a traceback for one not yet in use
            torch.default_generator.manual_seed(number)
        else:
            torch.manual_seed(number)
        yield
