"""Bytes of every codec's messages, as written, against the forms of docs/concepts/wire.md, at the widths of models."""

from fractions import Fraction
from itertools import product
from math import ceil, log2

import pytest
import torch
from support.codecs import NAMES, OPTIONS, make
from transformers import AutoConfig

from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.models.families import supported
from atlas_cli.models.files.architectures import ARCHITECTURES
from atlas_cli.wire.messages import Activations
from atlas_cli.wire.step_codecs import StepCodecs

B, T = 2, 2
ODD = (1, 7, 65)
EXAMPLE_BYTES = 4  # of the number of a text, which goes up beside what is of changes


def blocks(o, d):
    """Scales of a token: one, or one for each block of features."""
    return 1 if o.block is None else ceil(d / o.block)


def four_bits(o, d, number):
    return B * T * (ceil(d / 2) + 4 * blocks(o, d))


def kept(o, d, number):
    k = max(1, int(Fraction(str(o.share)) * d))
    return B * T * ((2 if o.numbers == "bfloat16" else number) * k + ceil(k * max(1, ceil(log2(d))) / 8))


def low_rank(o, d, number):
    r = min(o.rank, T, d)
    return B * (T * ceil(r * o.bits / 8) + r * ceil(d * o.bits / 8) + 8 * r)


def vector_quantised(o, d, number):
    size = ceil(d / min(o.pieces, d))
    pieces = ceil(d / size)
    return 4 * o.levels * size + B * T * ceil(pieces * ceil(log2(o.levels)) / 8)


# by a codec's options, D, and the bytes of a number as it is computed
FORMS = {
    "none": lambda o, d, number: number * B * T * d,
    "bfloat16": lambda o, d, number: 2 * B * T * d,
    "int8": lambda o, d, number: B * T * (d + 4 * blocks(o, d)),
    "int4": four_bits,
    "nf4": four_bits,
    "top-k": kept,
    "random-top-k": kept,
    "low-rank": low_rank,
    "vector-quantised": vector_quantised,
    # texts that are new, and changes, which are float32
    "delta": lambda o, d, number: FORMS[o.first](make(o.first, **o.first_options).options, d, number),
    "change": lambda o, d, number: FORMS[o.codec](make(o.codec, **o.options).options, d, 4),
}


@pytest.fixture(scope="module")
def widths():
    """Of every model type as its class has it, of published architectures that have another, of MiniLM; odd ones."""
    published = {fields.get("hidden_size", fields.get("n_embd")) for fields in ARCHITECTURES.values()} - {None}
    return sorted({AutoConfig.for_model(kind).hidden_size for kind in supported()} | published | {384, *ODD})


def written(message):
    """Bytes of the tensors in the file: what follows the header, whose length its first 8 bytes say."""
    data = message.serialized()
    assert len(data) == message.bytes
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def asked(name, d):
    """Options and type; all of them at odd widths."""
    if d not in ODD:
        return [({}, torch.float32)]
    return product(OPTIONS.get(name, [{}]), (torch.float32, torch.bfloat16))


@pytest.mark.parametrize("name", NAMES)
def test_as_many_bytes_are_planned_and_written_as_the_closed_form_says_at_the_width_of_every_model(name, widths):
    draw, numbers = torch.Generator().manual_seed(0), list(range(B))
    for d in widths:
        values = torch.randn(B, T, d, generator=draw)
        for options, dtype in asked(name, d):
            wire = WireConfig(activations=CodecConfig(codec=name, options=options))
            codecs = StepCodecs.of(wire, d, dtype, dtype, 0)
            message = codecs.number(Activations("a", values.to(dtype)), numbers)
            for each in (name, "change") if codecs.numbered else (name,):
                said, what = FORMS[each](make(name, **options).options, d, dtype.itemsize), (each, options, d, dtype)
                assert codecs.payload_bytes("activations", B, T, numbers) == said, what
                texts = EXAMPLE_BYTES * B if codecs.numbered else 0
                sent = codecs.encode(message, (1, 0))
                assert written(sent) == said + texts, what
                codecs.decode(sent)
