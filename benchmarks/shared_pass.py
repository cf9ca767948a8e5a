"""What sharing a pass is worth to clients: one by one and padded, packed alone, and packed together, on one thread.

    python benchmarks/shared_pass.py    about 3 minutes on one core

A step is forward and backward of all clients through six blocks with adapters of their own (``engine.fuse``); sizes are
GPT-2 small's and MiniLM's, weights are random. The three take turns, and a ratio is the median of the ratios of
neighbours. With texts of one length nothing is padded: there a shared pass must not lose.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich import box
from rich.table import Table
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from atlas_cli import SplitClient
from atlas_cli.data.collate import Batch
from atlas_cli.engines.passes import fill_passes, pass_tokens
from atlas_cli.federation.parties.shared_client_pass import ClientPass
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.kernel_order import prepack_blocks
from atlas_cli.models.frozen.load import FrozenBase, as_base
from atlas_cli.reports.terminal import Terminal
from atlas_cli.wire.messages import Gradients

BLOCKS, CLIENTS, TURNS = 6, 8, 5
Step = Callable[[], None]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gpt2 = GPT2Model(GPT2Config(n_layer=BLOCKS, vocab_size=1000))
    narrow = BertConfig(
        num_hidden_layers=BLOCKS, hidden_size=384, intermediate_size=1536, num_attention_heads=12, vocab_size=1000
    )
    bases = {"gpt2": as_base(gpt2, family_of("gpt2"), "gpt2", "random")}
    bases["minilm"] = as_base(BertModel(narrow), family_of("bert"), "minilm", "random")
    prepack_blocks(list(bases.values()), 2 * 2**30)  # as a run does
    columns = ("size", "texts a client", "places a token", "one by one, s", "packed alone", "shared")
    table = Table(*columns, box=box.MARKDOWN)
    draw = random.Random(0)
    for name, base in bases.items():
        for texts in (1, 2, 4, 8):
            natural = [[max(4, round(draw.gauss(22, 9))) for _ in range(texts)] for _ in range(CLIENTS)]
            table.add_row(name, f"{texts}, natural", *measured(base, natural))
        table.add_row(name, "8 of 20 tokens", *measured(base, [[20] * 8] * CLIENTS))
        table.add_row(name, "8 of 64 tokens", *measured(base, [[64] * 8] * 2))
    Terminal(width=120).print(table)


def measured(base: FrozenBase, lengths: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Places a token, seconds one by one, and that over the seconds of the two other ways."""
    clients = [SplitClient(i, rank_config=8, split_layer=BLOCKS, base=base, seed=i) for i in range(len(lengths))]
    batches = [padded(each) for each in lengths]
    tokens = [sum(each) for each in lengths]
    names = {str(i): n for i, n in enumerate(tokens)}
    groups = [[int(name) for name in together] for together in fill_passes(names, names, pass_tokens(base.hidden_size))]

    def one_by_one() -> None:
        for client, batch in zip(clients, batches, strict=True):
            client.backward(torch.full_like(client.compute_activations(batch.inputs()), 1e-3))

    def packed(together: Sequence[Sequence[int]]) -> Step:
        def step() -> None:
            for group in together:
                shared = ClientPass([clients[i] for i in group])
                sent = shared.forward([batches[i] for i in group], 1, 0)
                shared.backward([Gradients(up.client, torch.full_like(up.activations, 1e-3)) for up in sent])

        return step

    ways = (one_by_one, packed([[i] for i in range(len(clients))]), packed(groups))
    taken = [[seconds(way) for way in ways] for _ in range(TURNS + 1)][1:]
    ratios = [statistics.median(turn[0] / turn[i] for turn in taken) for i in (1, 2)]
    places = sum(batch.input_ids.numel() for batch in batches) / sum(tokens)
    alone = statistics.median(turn[0] for turn in taken)
    return f"{places:.2f}", f"{alone:.2f}", *(f"{ratio:.2f}" for ratio in ratios)


def padded(lengths: Sequence[int]) -> Batch:
    """Random tokens, padded on the right."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 1000, mask.shape) * mask
    return Batch(ids, mask, None, torch.zeros(len(lengths), dtype=torch.int64), [])


def seconds(step: Step) -> float:
    """How long a step takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
