"""Passes of a row of real tokens through frozen blocks, replayed as CUDA graphs.

A graph is of one shape. Sequences are therefore padded to one length, a multiple of ``STEP``, and a graph is captured
for each number of sequences of each adapter, shapes of adapters, and length. Adapters are inputs of a graph, so that
clients of the same shapes share it. Before its first use a graph is held against the computation that it is of, on
inputs other than those that it was captured with. What is not replayed is computed as it is without graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from atlas_cli.models.adapters.add_low_rank import Span
from atlas_cli.models.adapters.lora import LoRAAdapter
from atlas_cli.models.adapters.per_client_rows import Part, Segment, attached_parts, attached_segments, parts_of
from atlas_cli.models.cuda_graphs.captured import Captured, Lane, departure
from atlas_cli.models.cuda_graphs.recorder import CudaGraphs, Recorder
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.attention_scope import is_causal, seen
from atlas_cli.models.halves.real_tokens import attending, of_sequences, run_packed, run_row
from atlas_cli.notes import say

STEP = 32  # tokens: of texts of up to 128 there are four lengths
MOST = 64  # graphs of one party; each keeps its inputs, its output and its gradients
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of a replay


class PassRows(NamedTuple):
    """A row of real tokens, and who has adapters on which of them.

    Attributes:
        base: whose modules compute it; ``half``: the part of it.
        segments: adapters with the number of tokens that they act on, in the order of the row.
        lengths: tokens of each sequence, none of which is of two segments.
        positions: (N,), as the model numbers them.
        rows: ``input_ids`` (N,), with ``token_type_ids`` (N,) where there are some, or ``inputs_embeds`` (N, D).
    """

    base: FrozenBase
    half: nn.Module
    segments: Sequence[Segment]
    lengths: Sequence[int]
    positions: Tensor
    rows: Mapping[str, Tensor]

    def compute(self) -> Tensor:
        """The hidden states (N, D) without a graph."""
        with attached_segments(self.base.model, self.segments):
            return run_packed(self.half, self.lengths, self.positions, **self.rows)


class GraphedPasses:
    """The graphs of one party, the clients or the server, of which one pass is under way at a time.

    Attributes:
        replayed, computed: the passes of either kind so far.
        why: why passes were not replayed; None where all were.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._lane = recorder, Lane()
        self._captured: dict[Hashable, Captured] = {}
        self.replayed = self.computed = 0
        self.why: str | None = None
        self._given_up = False

    def run(self, rows: PassRows) -> Tensor:
        """The hidden states (N, D)."""
        found = self._replay(rows) if torch.is_grad_enabled() and not self._given_up else None
        if found is None:
            self.computed += 1
            return rows.compute()
        self.replayed += 1
        return found

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        figures = {"graphs": len(self._captured), "replayed": self.replayed, "computed": self.computed}
        return figures if self.why is None else {**figures, "why": self.why}

    def _replay(self, rows: PassRows) -> Tensor | None:
        padded = _Padded(rows)
        if not any(t.requires_grad for t in padded.inputs):
            return None
        if self._lane.busy:
            self.why = "another pass was under way"
            return None
        captured = self._captured.get(padded.key)
        if captured is None and len(self._captured) < MOST:
            captured = self._capture(padded)
        if captured is None:
            self.why = self.why or f"there are {MOST} graphs, and it was of no shape among them"
            return None
        return captured(padded.inputs).index_select(0, padded.places)

    def _capture(self, padded: _Padded) -> Captured | None:
        """A graph of these shapes; None, and none of others either, where what it gives is not what is computed."""
        try:
            captured = Captured(padded.compute, padded.inputs, self._recorder, self._lane)
            apart = departure(captured, padded.compute, padded.inputs)
        except RuntimeError as error:  # as an operator that needs a value on the CPU, or no memory left
            self._give_up(f"it cannot be captured: {str(error).partition(chr(10))[0]}")
            return None
        if apart > TOLERANCE[padded.dtype]:
            self._give_up(f"a replay was {apart:.1e} from what is computed")
            return None
        self._captured[padded.key] = captured
        return captured

    def _give_up(self, why: str) -> None:
        self._given_up, self.why = True, why
        say(f"warning: engine.cuda_graphs: passes are computed from here on: {why}")


class _Padded:
    """A row with its sequences padded to one length, as inputs of a graph.

    Attributes:
        inputs: positions (S * T,), real tokens (S, T), rows (S * T, ...) and adapters, two tensors each.
        places: (N,), where the real tokens are among the S * T.
        key: what two rows have in common that one graph serves.
    """

    def __init__(self, of: PassRows) -> None:
        self._base, self._half = of.base, of.half
        self._length = -(-max(of.lengths) // STEP) * STEP
        self._names = sorted(of.rows)
        real_ST = torch.arange(self._length) < torch.tensor(of.lengths)[:, None]
        self.places = real_ST.flatten().nonzero().squeeze(1).to(of.positions.device)
        segments = list(_whole_sequences(of.segments, of.lengths, self._length))
        inside = set(of.half.modules())  # the server's adapters are on blocks below a client's later cut, too
        parts = {p: each for p, each in parts_of(segments).items() if of.base.model.get_submodule(p) in inside}
        self._spans = {path: [span for span, _ in each] for path, each in parts.items()}
        factors = [tensor for each in parts.values() for _, part in each for tensor in _factors(part)]
        tokens = [of.positions, *(of.rows[name] for name in self._names)]
        positions, *rows = (self._spread(t, real_ST.numel()) for t in tokens)
        self.inputs = [positions, real_ST.to(positions.device), *rows, *factors]
        shapes = tuple((t.shape, t.dtype, t.requires_grad) for t in self.inputs)
        spans = tuple((path, tuple(spans)) for path, spans in self._spans.items())
        self.key = of.half, tuple(self._names), spans, shapes
        self.dtype = of.base.dtype
        self._seen: dict[tuple[bool, int | None], Tensor] = {}

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """The hidden states (S * T, D), those of padding among them, of inputs of these shapes."""
        positions, real_ST, *others = inputs
        rows = dict(zip(self._names, others, strict=False))
        factors = iter(others[len(rows) :])
        parts = {path: list(_pairs(spans, factors)) for path, spans in self._spans.items()}
        with (
            attached_parts(self._base.model, parts),
            attending(self._half, partial(_within_sequences, real_ST, self._sees)),
        ):
            return run_row(self._half, positions, **rows)

    def _spread(self, rows: Tensor, places: int) -> Tensor:
        return rows.new_zeros(places, *rows.shape[1:]).index_copy(0, self.places, rows)

    def _sees(self, causal: bool, window: int | None) -> Tensor:
        """Which tokens of a sequence see which, (1, 1, T, T); made at a first call, and none is made in a recording."""
        if (causal, window) not in self._seen:
            found = seen(causal, range(self._length), self._length, window, self.places.device)
            self._seen[causal, window] = found
        return self._seen[causal, window]


def _within_sequences(
    real_ST: Tensor,
    sees: Callable[[bool, int | None], Tensor],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    **options: Any,
) -> Tensor:
    """Attention of padded sequences (1, H, S * T, D_head): (1, S * T, H, D_head)."""
    causal = options.get("is_causal")
    causal = is_causal(module) if causal is None else causal
    # padding looks everywhere: over no token at all a softmax is not a number, and neither are gradients behind it
    mask = (sees(causal, options.get("sliding_window")) & real_ST[:, None, None]) | ~real_ST[:, None, :, None]
    q, k, v = (of_sequences(part, len(real_ST)) for part in (query, key, value))
    found, _ = sdpa_attention_forward(module, q, k, v, mask, **{**options, "is_causal": False})
    return found.flatten(0, 1).unsqueeze(0)


def _whole_sequences(segments: Sequence[Segment], lengths: Sequence[int], length: int) -> Iterator[Segment]:
    """The segments with their sequences at one length."""
    left = iter(lengths)
    for adapters, tokens in segments:
        sequences = 0
        while tokens > 0:
            tokens, sequences = tokens - next(left), sequences + 1
        yield Segment(adapters, sequences * length)


def _factors(part: LoRAAdapter | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return part.factors() if isinstance(part, LoRAAdapter) else part


def _pairs(spans: Sequence[Span], factors: Iterator[Tensor]) -> Iterator[Part]:
    for span in spans:
        yield span, (next(factors), next(factors))


def graphed_passes(device: torch.device) -> GraphedPasses | None:
    """Those of a party on this device; None where it has no CUDA graphs."""
    return GraphedPasses(CudaGraphs(device)) if device.type == "cuda" else None
