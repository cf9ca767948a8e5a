"""What engine.prefix_cache is worth: local steps of a client of 6 GPT-2 blocks, on one thread.

    python benchmarks/prefix_cache.py    about 3 minutes on one core

A step is the client's own: forward, backward from a given gradient at the cut, Adam. "all" has adapters in all six
blocks; "upper" has them in the blocks named and computes those below anew; "cached" takes those from the cache. The
three take turns, and a ratio is the median of the ratios of neighbours. "first epoch" is one in which every text is a
miss, against "upper". Weights are random: only shapes matter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich import box
from rich.table import Table
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from atlas_cli import SplitClient
from atlas_cli.federation.parties.prefix_cache import Prefix, PrefixCache
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import FrozenBase, as_base
from atlas_cli.reports.terminal import Terminal

BLOCKS, BATCH, RANK = 6, 8, 8


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7, help="timed epochs of each kind (default 7)")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = random_base()
    columns = ("tokens", "adapters", "upper, steps/s", "cached / upper", "cached / all", "first epoch", "cache, MiB")
    table = Table(*columns, box=box.MARKDOWN)
    for tokens, batches in ((20, 4), (128, 1)):
        for first in (3, 5):
            found = measure(base, first, tokens, batches, turns)
            table.add_row(f"{BATCH} x {tokens}", f"{first}..{BLOCKS - 1}", *found.cells())
    Terminal(width=140).print(table)


def measure(base: FrozenBase, first: int, tokens: int, batches: int, turns: int) -> Measured:
    """One shape: texts of 0.7 to 1 times ``tokens``, padded; adapters in blocks ``first`` and above."""
    texts = [padded(tokens) for _ in range(batches)]
    upper, cached, every = client(base, first), client(base, first), client(base, 0)
    for each in (upper, every):
        epoch(each, texts)
    cold = []
    for _ in range(3):
        cache = PrefixCache(2**30, Path("unused"))
        cached.prefix = Prefix(cache, base, cached.adapters, first, BLOCKS, "off")
        cold.append(epoch(upper, texts) / epoch(cached, texts))
    taken = [[epoch(each, texts) for each in (every, upper, cached)] for _ in range(turns)]
    return Measured(
        batches / statistics.median(t[1] for t in taken),
        [t[1] / t[2] for t in taken],
        [t[0] / t[2] for t in taken],
        cold,
        cache.memory_bytes,
    )


class Measured(NamedTuple):
    """Steps a second without a cache; ratios of speed by turn; bytes in the cache."""

    steps_per_second: float
    over_upper: list[float]
    over_all: list[float]
    first_epoch: list[float]
    cache_bytes: int

    def cells(self) -> list[str]:
        """Medians, for the table."""
        ratios = (self.over_upper, self.over_all, self.first_epoch)
        figures = (self.steps_per_second, *map(statistics.median, ratios))
        return [*(f"{figure:.2f}" for figure in figures), f"{self.cache_bytes / 2**20:.1f}"]


def random_base() -> FrozenBase:
    """Six blocks of GPT-2's width with random weights."""
    return as_base(GPT2Model(GPT2Config(n_layer=BLOCKS, vocab_size=1000)), family_of("gpt2"), "gpt2", "random")


def padded(tokens: int) -> dict[str, Tensor]:
    """A batch of random tokens, the first row of full length."""
    lengths = torch.randint(int(0.7 * tokens), tokens + 1, (BATCH,))
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    return {"input_ids": torch.randint(1, 1000, (BATCH, tokens)) * mask, "attention_mask": mask}


def client(base: FrozenBase, first: int) -> SplitClient:
    """With adapters from block ``first`` on."""
    return SplitClient("c", rank_config=dict.fromkeys(range(first, BLOCKS), RANK), split_layer=BLOCKS, base=base)


def epoch(party: SplitClient, texts: list[dict[str, Tensor]]) -> float:
    """Seconds of a step on every batch."""
    began = time.perf_counter()
    for batch in texts:
        activations = party.compute_activations(batch)
        party.apply_gradients(torch.full_like(activations, 1e-3))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
