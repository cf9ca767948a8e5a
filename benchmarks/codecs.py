"""How long codecs take, on one core: milliseconds and bytes a second, of a step, and what the virtual clock counts.

    python benchmarks/codecs.py    about a minute on one core

Each codec encodes and decodes hidden states (8, 128, 768) in float32; the step is forward and backward of twelve GPT-2
blocks on the same, and "of a step" the part of it that a codec takes for activations and gradients, at both ends.
The operations of a matrix product that take as long as a number's encoding and decoding are what the codec's file says
(``encode_flops``, ``decode_flops``, ``flops``). Times are of the processor, the least of several turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rich import box
from rich.table import Table
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from atlas_cli import discovery
from atlas_cli.config.schema.wire import CodecConfig
from atlas_cli.reports.terminal import Terminal
from atlas_cli.wire.codecs import codec_of

SHAPE = (8, 128, 768)
BLOCKS, TURNS = 12, 12
MORE = {"vector-quantised": [{"levels": 256}]}  # options that take much more


class Times(NamedTuple):
    """Seconds of one message."""

    encode: float
    decode: float


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    values = torch.randn(SHAPE)
    step, rate = step_seconds(), flop_rate()
    columns = ("codec", "encode, ms", "decode, ms", "encode, GB/s", "decode, GB/s", "of a step", "FLOP a number")
    table = Table(*columns, box=box.MARKDOWN)
    for name in discovery.own_names("wire.codecs"):
        if name not in ("none", "delta"):  # the one does nothing, and the other what its codecs do
            for options in ({}, *MORE.get(name, [])):
                label = ", ".join([name, *(f"{key}: {value}" for key, value in options.items())])
                table.add_row(label, *figures(times(name, options, values), values, step, rate))
    Terminal(width=120).print(table)
    Terminal(width=120).print(f"step: {step:.2f} s; matrix products: {rate / 1e9:.0f} GFLOP/s")


def figures(taken: Times, values: Tensor, step: float, rate: float) -> list[str]:
    """The cells of a codec."""
    share = 2 * sum(taken) / step  # of activations, and of gradients
    flops = [each * rate / values.numel() for each in taken]
    speeds = [f"{values.nbytes / each / 1e9:.2f}" for each in taken]
    return [*(f"{1000 * each:.2f}" for each in taken), *speeds, f"{share:.2%}", " + ".join(f"{f:.0f}" for f in flops)]


def times(name: str, options: dict[str, Any], values: Tensor) -> Times:
    """Of a codec, with its other options as they are without a config."""
    codec = codec_of(CodecConfig(codec=name, options=options), "wire")
    generator = torch.Generator().manual_seed(0)
    parts = codec.encode(values, generator)
    encode = least(lambda: codec.encode(values, generator))
    return Times(encode, least(lambda: codec.decode(parts, values.shape[2]).float()))


def flop_rate() -> float:
    """Floating-point operations a second in a product of the size of a feed-forward layer."""
    rows, width = SHAPE[0] * SHAPE[1], SHAPE[2]
    one, other = torch.randn(rows, width), torch.randn(width, 4 * width)
    return 2 * rows * width * 4 * width / least(lambda: one @ other)


def step_seconds() -> float:
    """Forward and backward to the input of all blocks, whose weights are frozen."""
    model = (
        GPT2Model(GPT2Config(n_layer=BLOCKS, vocab_size=100, bos_token_id=None, eos_token_id=None))
        .eval()
        .requires_grad_(False)
    )
    inputs = torch.randn(SHAPE, requires_grad=True)
    return least(lambda: model(inputs_embeds=inputs).last_hidden_state.sum().backward(), 3)


def least(work: Callable[[], object], turns: int = TURNS) -> float:
    """The least processor seconds of several turns."""
    found = []
    for _ in range(turns):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


if __name__ == "__main__":
    main()
