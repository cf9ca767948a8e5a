"""What a client has alive while codecs encode and decode, found by doing it: with zeros, and on few texts.

Parts, temporaries and what is decoded: at the sender, too, for the records of what was lost, and for what codecs keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from atlas_cli.planning.memory.saved_trace import LiveBytes
from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients, HiddenStates
from atlas_cli.wire.parameter_codec import ParameterCodec, Shapes
from atlas_cli.wire.step_codecs import StepCodecs

NUMBERS = 2**21  # of a message that is encoded for real; of more texts it is so much more
INPUTS = 25  # bytes a token: its number, two masks, and that of the batch before


def coding_bytes(codecs: StepCodecs, batch: int, tokens: int) -> int:
    """The most that a client has alive while it encodes or decodes a message of a step, with the batch's inputs: beside
    the hidden states themselves where it sends them, and what is kept of texts. 0 without a codec."""
    if not codecs.codecs or not batch * tokens:
        return 0
    own = [(kind, type(codec).__module__, codec.options.model_dump_json()) for kind, codec in codecs.codecs.items()]
    key = codecs.width, tuple(codecs.dtypes.values()), tuple(sorted(codecs.feedback)), *own
    few = min(batch, max(1, NUMBERS // (tokens * codecs.width)))
    return -(-_alive(_Work(str(key), few, tokens, codecs)) * batch // few) + INPUTS * batch * tokens


def upload_bytes(codec: ParameterCodec | None, shapes: Shapes) -> int:
    """The most that it has alive while it encodes its upload: changes, what they are with feedback, and the codec's."""
    if codec is None or not shapes:
        return 0
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with LiveBytes(zeros.values()) as live:
        codec.encode(zeros, torch.Generator())
    return live.peak + 2 * sum(tensor.nbytes for tensor in zeros.values())


@dataclass(frozen=True)
class _Work:
    """What decides the bytes; ``key`` says all of ``codecs``."""

    key: str
    batch: int
    tokens: int
    codecs: StepCodecs = field(compare=False)


@lru_cache(maxsize=256)
def _alive(work: _Work) -> int:
    asked, shape = work.codecs, (work.batch, work.tokens, work.codecs.width)
    both = StepCodecs(asked.codecs, asked.width, asked.dtypes, asked.seed, asked.feedback)
    zeros = {kind: torch.zeros(shape, dtype=asked.dtypes[kind]) for kind in asked.codecs}
    mask, most = torch.ones(shape[:2], dtype=torch.bool), 0
    numbers = torch.arange(work.batch, dtype=torch.int32) if both.numbered else None
    with LiveBytes([*zeros.values(), mask]) as live:
        for visit in range(2 if both.numbered else 1):  # of texts that are new, and of those that were sent before
            before = both.memory.bytes()
            for _ in _messages(both, zeros, mask, numbers, visit > 0):
                most = max(most, live.peak - max(before, both.memory.bytes()))
                live.peak = live.now
    return most


def _messages(
    both: StepCodecs, zeros: Mapping[str, Tensor], mask: Tensor, numbers: Tensor | None, seen: bool
) -> Iterator[HiddenStates]:
    """A client's messages of a step, each as it is encoded or decoded."""
    batch, tokens = mask.shape

    def parts(kind: str) -> dict[str, Tensor]:
        layout = both.layout(kind, batch if seen else 0, 0 if seen else batch, tokens)
        return {name: torch.zeros(part.shape, dtype=part.dtype) for name, part in layout.items()}

    up = Activations("", zeros.get("activations", mask.unsqueeze(-1)), mask, examples=numbers)
    yield both.encode(up, (0, 0))
    if "features" in zeros:
        own = parts("features")
        yield both.decode(Features("", own.pop("values"), parts=own))
    if "feature-gradients" in zeros:
        yield both.encode(FeatureGradients("", zeros["feature-gradients"], torch.tensor(1)), (0, 0))
    if "gradients" in zeros:
        own = parts("gradients")
        yield both.decode(Gradients("", own.pop("values"), parts=own))
