"""On which models and devices ``benchmarks/accelerator.py`` measures, and what comes of a part."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

MIB = 2**20


@dataclass(frozen=True)
class Size:
    """A model, and the work on it: so many texts a client and step, the longest of ``tokens``.

    Attributes:
        product: rows and columns of the matrices whose product is the device's rate.
    """

    name: str
    config: PreTrainedConfig
    clients: int
    batch: int
    tokens: int
    product: int

    @property
    def blocks(self) -> int:
        """Of the whole model."""
        return self.config.num_hidden_layers


_TINY = LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
)
_LLAMA_1B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=2048,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=8192,
    max_position_embeddings=2048,
    dtype="bfloat16",
    tie_word_embeddings=True,
)
SIZES = {
    "tiny": Size("tiny", _TINY, 2, 2, 16, 64),
    "small": Size("small", GPT2Config(), 8, 8, 128, 4096),
    "large": Size("large", _LLAMA_1B, 4, 8, 256, 8192),
}


@dataclass(frozen=True)
class Place:
    """Where to measure, and for how many seconds each."""

    device: torch.device
    seconds: float

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        """Bytes of tensors on a GPU that somebody still holds; 0 on a CPU. From here on the peak is counted."""
        gc.collect()
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self, before: int) -> float | None:
        """MiB of tensors beyond ``before``, at most; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return (torch.cuda.max_memory_allocated(self.device) - before) / MIB


@dataclass(frozen=True)
class Part:
    """What came of a part.

    Attributes:
        status: "ok"; "skipped": the device, or a package that is missing, does not have it; "failed"; "no time".
        note: why, or what else was found.
        peak_mib: of tensors on the GPU, beyond what lay there.
        tflops: of the products of frozen layers; ``share``: of the rate of one large product.
    """

    size: str
    dtype: str
    name: str
    status: str = "ok"
    note: str = ""
    tokens_per_second: float | None = None
    peak_mib: float | None = None
    tflops: float | None = None
    share: float | None = None
