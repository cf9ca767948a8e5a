"""Passes of a row of real tokens through frozen blocks, replayed as CUDA graphs.

A graph is of one shape. Sequences are therefore padded to one length, a multiple of ``STEP``, and a graph is captured
for each number of sequences of each adapter, shapes of adapters, and length. Adapters are inputs of a graph, so that
clients of the same shapes share it. A shape is captured when it comes a second time. Before its first use a graph is
held against the computation that it is of, on inputs other than those that it was captured with. What is not replayed
is computed as it is without graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from atlas_cli.models.adapters.add_low_rank import Span
from atlas_cli.models.adapters.per_client_rows import (
    Part,
    Segment,
    attached_parts,
    attached_segments,
    factors_of,
    parts_of,
)
from atlas_cli.models.cuda_graphs.captured import Captured, Lane, departure
from atlas_cli.models.cuda_graphs.recorder import CudaGraphs, Recorder
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.attention_scope import is_causal, seen
from atlas_cli.models.halves.real_tokens import attending, of_sequences, run_packed, run_row
from atlas_cli.notes import say

STEP = 32  # tokens: of texts of up to 128 there are four lengths
MOST = 64  # graphs of one party; each keeps its inputs, its output and its gradients
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of a replay


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
        active: False once a pass could not be captured, or a replay was not what is computed.
        replayed, computed: the passes of either kind so far.
        why: why passes were not replayed, beside those that were the first of their shape; None where all were.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._lane, self._masks = recorder, Lane(), _Masks()
        self._captured: dict[Hashable, Captured] = {}
        self._met: set[int] = set()
        self._most = MOST
        self.active = True
        self.replayed = self.computed = 0
        self.why: str | None = None

    def replay(self, rows: PassRows) -> Tensor | None:
        """The hidden states (N, D); None where they have to be computed."""
        found = self._replay(rows) if self.active and torch.is_grad_enabled() else None
        self.replayed += found is not None
        self.computed += found is None
        return found

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        figures = {"graphs": len(self._captured), "replayed": self.replayed, "computed": self.computed}
        return figures if self.why is None else {**figures, "why": self.why}

    def _replay(self, rows: PassRows) -> Tensor | None:
        if self._lane.busy:
            self.why = self.why or "another pass was under way"
            return None
        padded = _Padded(rows, self._masks)
        if not any(t.requires_grad for t in padded.inputs):
            return None
        captured = self._captured.get(padded.key) or self._capture(padded)
        return None if captured is None else captured(padded.inputs).index_select(0, padded.places)

    def _capture(self, padded: _Padded) -> Captured | None:
        """A graph of these shapes, from the second time on that they come: to capture costs some ten passes."""
        if hash(padded.key) not in self._met:
            self._met.add(hash(padded.key))
            return None
        if len(self._captured) >= self._most:
            self.why = self.why or f"there are {self._most} graphs, and it was of no shape among them"
            return None
        try:
            captured = Captured(padded.compute, padded.inputs, self._recorder, self._lane)
            apart = departure(captured, padded.compute, padded.inputs)
        except torch.OutOfMemoryError as error:
            self._most, self.why = len(self._captured), f"there was no memory for another graph: {_first_line(error)}"
            say(f"warning: engine.cuda_graphs: no more than {self._most} graphs: {self.why}")
            return None
        except Exception as error:  # as that of an operator that needs a value on the CPU
            return self._give_up(f"it cannot be captured: {_first_line(error)}")
        if apart > TOLERANCE[padded.dtype]:
            return self._give_up(f"a replay was {apart:.1e} from what is computed")
        self._captured[padded.key] = captured
        return captured

    def _give_up(self, why: str) -> Captured | None:
        self.active, self.why = False, why
        self._captured.clear()
        say(f"warning: engine.cuda_graphs: passes are computed from here on: {why}")
        return None


class _Masks:
    """Which tokens of a sequence see which, (1, 1, T, T), by T, causality and window.

    They stay where they are, as graphs read them there; none is made in a recording, as a warm-up comes before it.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool, int | None], Tensor] = {}

    def get(self, length: int, device: torch.device, causal: bool, window: int | None) -> Tensor:
        """That of sequences of ``length`` tokens."""
        kind = length, causal, window
        if kind not in self._made:
            self._made[kind] = seen(causal, range(length), length, window, device)
        return self._made[kind]


class _Padded:
    """A row with its sequences padded to one length, as inputs of a graph.

    Attributes:
        inputs: positions (S * T,), real tokens (S, T), rows (S * T, ...) and adapters, two tensors each.
        places: (N,), where the real tokens are among the S * T.
        key: what two rows have in common that one graph serves.
    """

    def __init__(self, of: PassRows, masks: _Masks) -> None:
        self._base, self._half = of.base, of.half
        length = -(-max(of.lengths) // STEP) * STEP
        given = _looked_up(of)
        self._names = sorted(given)
        real_ST = torch.arange(length) < torch.tensor(of.lengths)[:, None]
        self.places = real_ST.flatten().nonzero().squeeze(1).to(of.positions.device)
        segments = list(_whole_sequences(of.segments, of.lengths, length))
        inside = set(of.half.modules())  # the server's adapters are on blocks below a client's later cut, too
        parts = {p: each for p, each in parts_of(segments).items() if of.base.model.get_submodule(p) in inside}
        self._spans = {path: [span for span, _ in each] for path, each in parts.items()}
        factors = [tensor for each in parts.values() for _, part in each for tensor in factors_of(part)]
        tokens = [of.positions, *(given[name] for name in self._names)]
        positions, *rows = (self._spread(t, real_ST.numel()) for t in tokens)
        self.inputs = [positions, real_ST.to(positions.device), *rows, *factors]
        shapes = tuple((t.shape, t.dtype, t.requires_grad) for t in self.inputs)
        spans = tuple((path, tuple(spans)) for path, spans in self._spans.items())
        self.key = of.half, tuple(self._names), spans, shapes
        self.dtype = of.base.dtype
        self._sees = partial(masks.get, length, of.positions.device)

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


def _looked_up(of: PassRows) -> Mapping[str, Tensor]:
    """The rows, with embeddings in place of tokens where those are by the row: which of them are held is asked on the
    CPU."""
    if "input_ids" not in of.rows or of.base.embedding == "table":
        return of.rows
    others = {name: tensor for name, tensor in of.rows.items() if name != "input_ids"}
    embedding = of.base.model.get_input_embeddings()  # type: ignore[operator]
    return {**others, "inputs_embeds": embedding(of.rows["input_ids"]).detach()}


def _first_line(error: BaseException) -> str:
    """Of the error that came first: torch's own, that a capture did not end well, hides it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def _pairs(spans: Sequence[Span], factors: Iterator[Tensor]) -> Iterator[Part]:
    for span in spans:
        yield span, (next(factors), next(factors))


def graphed_passes(device: torch.device) -> GraphedPasses | None:
    """Those of a party on this device; None where it has no CUDA graphs."""
    return GraphedPasses(CudaGraphs(device)) if device.type == "cuda" else None
