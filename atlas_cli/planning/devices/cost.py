"""Work, bytes and time of a step through the split, from shapes alone.

FLOPs count a multiplication and an addition as two. Notation: B batch, T tokens (padding included), d hidden size,
d_q and d_kv widths of query and of key or value, f feed-forward width, V vocabulary. A block's forward, per token:

    GPT-2, BERT    8 d^2 + 4 d f + 4 T d
    LLaMA          4 d d_q + 4 d d_kv + 6 d f + 4 T d_q

and 2 r (d_in + d_out) for an adapter. The weights are frozen, so the backward of a linear layer is one product of the
same size, of attention two and a half (scores are computed anew, and both of their operands have a gradient), of an
adapter two (its weights and its input). What lies below the lowest adapter has no backward, within its block too: with
adapters on the feed-forward alone, the attention of the lowest of them has none. Norms, activation functions, softmax
and embeddings are left out: they are a few percent of a block. A merged base (``flora``, ``fedex``) costs as the base.
Of a block with experts, each token's own count: ``num_experts_per_tok`` of them, and the router. Where a block makes
queries and keys of relative positions (DeBERTa), these cost once a pass, and each token its scores with them. Attention
that is written out has the backward that somebody needs. What brings embeddings to the width of the blocks (ELECTRA) is
counted with a client's forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import features_of
from atlas_cli.models.block_config import shortened
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.halves.split import blocks_of
from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.devices.traces import Trace
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.step_codecs import DOWN, UP, StepCodecs

ATTENTION_BACKWARD = 2.5
_FEED_FORWARD = 2  # the stage where it begins


@dataclass(frozen=True)
class Work:
    """FLOPs of one step: its forward, and its backward with the recomputation of checkpointing."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """The FLOPs of forward and backward together."""
        return self.forward + self.backward

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class BlockShapes:
    """The sizes of a block from which its FLOPs follow.

    Attributes:
        stages: (d_in, d_out) of its linear layers by name, in the order in which they run: those that make queries,
            keys and values; the attention's output; the feed-forward's first; its last.
        queries: the width of all queries together.
        ends_in_norm: whether a norm comes after the last linear layer.
        parallel: whether the feed-forward reads the block's input.
        fused: whether attention is one operation; else its backward is the products that somebody needs.
        relative: the relative positions of which the first two layers make queries and keys too, once a pass.
        entry: forward FLOPs per token of what brings embeddings to the width of the blocks.
    """

    blocks: str
    stages: tuple[Mapping[str, tuple[int, int]], ...]
    queries: int
    ends_in_norm: bool
    parallel: bool = False
    fused: bool = True
    relative: int = 0
    entry: int = 0

    @cached_property
    def linear(self) -> int:
        """Forward FLOPs of the frozen linear layers, per token."""
        return sum(2 * d_in * d_out for stage in self.stages for d_in, d_out in stage.values())

    def attention(self, tokens: int) -> int:
        """Forward FLOPs per token of scores and their product with the values; a causal mask saves nothing.

        With relative positions, a query has scores with their keys, and a key with their queries.
        """
        return 4 * (tokens + self.relative) * self.queries

    def forward(self, tokens: int, ranks: Mapping[str, int]) -> int:
        """Forward FLOPs per token with adapters of these ranks (by name in the block)."""
        return self.linear + self.attention(tokens) + self._adapters(ranks)

    def backward(self, tokens: int, ranks: Mapping[str, int], gradient_below: bool, trained: Collection[str]) -> float:
        """Backward FLOPs per token.

        Args:
            gradient_below: whether the block's input needs a gradient.
            trained: the trained parts of the adapters.
        """
        flops, wanted = 0.0, gradient_below
        for place, stage in enumerate(self.stages):
            adapted = False
            if self.parallel and place == _FEED_FORWARD:
                wanted = gradient_below
            for name, (d_in, d_out) in stage.items():
                rank, adapted = ranks.get(name, 0), adapted or name in ranks
                flops += wanted * 2 * d_in * d_out
                flops += 2 * rank * (("B" in trained) * d_out + ("A" in trained) * d_in)
                flops += 2 * rank * ((wanted or "A" in trained) * d_out + wanted * d_in)
            wanted = wanted or adapted
            if place == 0:
                flops += self._attention_backward(tokens, ranks, gradient_below)
        return flops

    def _attention_backward(self, tokens: int, ranks: Mapping[str, int], gradient_below: bool) -> float:
        adapted = [name in ranks for name in self.stages[0]]
        if self.fused:  # it gives the gradients of queries, keys and values together
            return (gradient_below or any(adapted)) * ATTENTION_BACKWARD * self.attention(tokens)
        of_each = adapted if len(adapted) == 3 else [any(adapted)] * 3  # one layer may make them all
        query, key, value = (gradient_below or each for each in of_each)
        products = query + key + (query or key) + value
        with_positions = query + key + of_each[0] + of_each[1]
        return 2.0 * self.queries * (tokens * products + self.relative * with_positions)

    def forward_once(self, ranks: Mapping[str, int]) -> int:
        """Forward FLOPs of the queries and keys of relative positions, once a pass."""
        made = self._of_positions.items()
        return sum(
            2 * self.relative * (d_in * d_out + ranks.get(name, 0) * (d_in + d_out)) for name, (d_in, d_out) in made
        )

    def backward_once(self, ranks: Mapping[str, int], trained: Collection[str]) -> int:
        """Backward FLOPs of these: their adapters have a gradient, and what is below has none."""
        return sum(
            2 * self.relative * ranks.get(name, 0) * (("B" in trained) * d_out + ("A" in trained) * (d_in + d_out))
            for name, (d_in, d_out) in self._of_positions.items()
        )

    @property
    def _of_positions(self) -> Mapping[str, tuple[int, int]]:
        return dict(list(self.stages[0].items())[:2]) if self.relative else {}

    def again(self, tokens: int, ranks: Mapping[str, int], gradient_below: bool) -> int:
        """FLOPs per token that a checkpointed block recomputes: up to the last layer that its backward needs."""
        adapted = [place for place, stage in enumerate(self.stages) if ranks.keys() & stage.keys()]
        last = len(self.stages) - 1
        if not self.ends_in_norm and last not in adapted:
            highest = max(adapted, default=0)
            alone = self.parallel and not gradient_below and highest < _FEED_FORWARD  # the feed-forward saves nothing
            last = highest if alone else last - 1
        needless = (sizes for stage in self.stages[last + 1 :] for sizes in stage.values())
        return self.forward(tokens, ranks) - sum(2 * d_in * d_out for d_in, d_out in needless)

    def _adapters(self, ranks: Mapping[str, int]) -> int:
        return sum(2 * ranks.get(name, 0) * sum(sizes) for stage in self.stages for name, sizes in stage.items())


def block_shapes(family: BaseFamily, hf_config: PreTrainedConfig) -> BlockShapes:
    """Read the shapes of a block from the model's own modules on the meta device.

    Raises:
        ConfigError: the family file does not say in which order the linear layers run, or leaves one out.
    """
    base = meta_model(shortened(hf_config, 1), family, torch.float32)[0]
    block = blocks_of(base, family)[0]
    linear = products_of(block, hf_config)
    named = [name for stage in family.stages for name in stage]
    if sorted(named) != sorted(linear):
        raise ConfigError(
            f"FLOPs of {hf_config.model_type} are not known: the stages of its family file do not fit its blocks in "
            f"{', '.join(sorted(linear.keys() ^ set(named))[:4])}",
            key="model.name",
        )
    heads = int(hf_config.num_attention_heads)
    width = int(getattr(hf_config, "head_dim", None) or int(hf_config.hidden_size) // heads)
    stages = tuple({name: linear[name] for name in stage} for stage in family.stages)
    outside = (m for name, m in base.named_modules() if isinstance(m, nn.Linear) and not name.startswith(family.blocks))
    entry = sum(2 * d_in * d_out for d_in, d_out in map(features_of, outside))
    return BlockShapes(
        family.blocks,
        stages,
        heads * width,
        family.ends_in_norm,
        family.parallel(hf_config),
        family.fused_attention(hf_config),
        family.relative_positions(hf_config),
        entry,
    )


def products_of(block: nn.Module, hf_config: PreTrainedConfig) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of each matrix that a token is multiplied with: linear layers by their names, and by the names of
    parameters a router's weight and the weights of all experts, (E, d_out, d_in), of which a token has a few."""
    found: dict[str, tuple[int, int]] = {}
    for path, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found[path] = features_of(module)
        elif not isinstance(module, nn.Embedding):
            for name, weight in module.named_parameters(path, recurse=False):
                if weight.dim() == 2:
                    found[name] = weight.shape[1], weight.shape[0]
                elif weight.dim() == 3:
                    found[name] = weight.shape[2], weight.shape[1] * int(getattr(hf_config, "num_experts_per_tok", 1))
    return found


def head_step(task: BaseTask, hidden_size: int, vocabulary: int, batch: int, tokens: int) -> Work:
    """FLOPs of a task's linear head, which reads every token or the pooled features of a text.

    Trained weights have a gradient, the frozen output embedding of a language model has none.
    """
    with FakeTensorMode():
        head = task.build_head(hidden_size, nn.Linear(hidden_size, vocabulary, bias=False))
        mask = torch.ones(batch, tokens, dtype=torch.int64)
        logits = head(torch.empty(batch, tokens, hidden_size), mask).numel()
    product = 2 * hidden_size * logits
    return Work(product, product * (2 if any(p.requires_grad for p in head.parameters()) else 1))


def client_step(
    shapes: BlockShapes,
    cut: int,
    ranks: Mapping[str, int],
    batch: int,
    tokens: int,
    *,
    checkpointing: bool = False,
    trained: Collection[str] = ("A", "B"),
    probes: int | None = None,
) -> Work:
    """FLOPs of a client that holds blocks ``0 .. cut-1``.

    Args:
        ranks: of its adapters, by path in the base.
        batch, tokens: the examples of a batch, and the tokens of each, padding included.
        checkpointing: whether every block with a backward runs its forward again.
        trained: the trained parts of the adapters.
        probes: forward passes that it takes instead of a backward.
    """
    work = _blocks(shapes, range(cut), ranks, batch, tokens, checkpointing, trained)
    return work if probes is None else Work(work.forward, probes * work.forward)


def server_step(
    shapes: BlockShapes,
    cut: int,
    n_layers: int,
    ranks: Mapping[str, int],
    batch: int,
    tokens: int,
    *,
    to_cut: bool = True,
    trained: Collection[str] = ("A", "B"),
) -> Work:
    """FLOPs of the server for one batch of one client: blocks ``cut ..``, without a head (``head_flops``).

    The gradient reaches the cut whatever the server trains; without ``to_cut``, for a client that gets none, it ends at
    the lowest adapter.
    """
    return _blocks(shapes, range(cut, n_layers), ranks, batch, tokens, False, trained, to_cut=to_cut)


def codec_step(codecs: StepCodecs, batch: int, tokens: int, alone: Sequence[int] | None = None) -> tuple[Work, Work]:
    """FLOPs of encoding and decoding the messages of a step, of the client and of the server.

    Args:
        alone: lengths of the texts that a frozen client sends; default: all of the batch.
    """
    numbers = batch * tokens * codecs.width
    sent = numbers if alone is None else sum(alone) * codecs.width
    up, back = (codecs.flops(kind) for kind in UP)
    down = [codecs.flops(kind) for kind in DOWN]
    after = numbers * (back[0] + sum(decode for _, decode in down))
    before, returned = numbers * (up[1] + back[1]), numbers * sum(encode for encode, _ in down)
    return Work(sent * up[0], after), Work(before, returned)


def generation_flops(
    shapes: BlockShapes, layers: range, ranks: Mapping[str, int], rows: int, tokens: int, context: int
) -> float:
    """FLOPs of blocks that compute ``tokens`` new tokens of each row, which attend to ``context`` tokens in all.

    Keys and values of the others are kept, and cost nothing again.
    """
    placed = _by_layer(shapes, ranks)
    return float(rows * tokens * sum(shapes.forward(context, placed.get(layer, {})) for layer in layers))


def compute_seconds(flops: float, device: Device) -> float:
    """The time of some work on a device.

    Raises:
        ValueError: its rate is not known.
    """
    return flops / _known(device, "compute")


def upload_seconds(
    size: float,
    messages: int,
    device: Device,
    server: Device | None = None,
    at: float | None = None,
    slowdown: float = 1.0,
) -> float:
    """The time to send ``size`` bytes in ``messages`` messages; the slower end decides, and latencies add up.

    Args:
        at: the virtual time at which the first byte leaves; None: a device that has a trace has its mean rate.
        slowdown: a factor on it all.

    Raises:
        ValueError: the device's uplink is not known.
    """
    trace = device.traces.uplink if at is not None and device.traces is not None else None
    most = _or(server, "downlink", float("inf"))
    sending = _sending(size, _known(device, "uplink"), most, trace, at, slowdown)
    return slowdown * (sending + messages * (_or(device, "latency", 0.0) + _or(server, "latency", 0.0)))


def download_seconds(
    size: float,
    messages: int,
    device: Device,
    server: Device | None = None,
    at: float | None = None,
    slowdown: float = 1.0,
) -> float:
    """The time of a transfer in the other direction, computed as in ``upload_seconds``."""
    trace = device.traces.downlink if at is not None and device.traces is not None else None
    most = _or(server, "uplink", float("inf"))
    sending = _sending(size, _known(device, "downlink"), most, trace, at, slowdown)
    return slowdown * (sending + messages * (_or(device, "latency", 0.0) + _or(server, "latency", 0.0)))


def _sending(size: float, rate: float, most: float, trace: Trace | None, at: float | None, slowdown: float) -> float:
    """The time that some bytes take over a link, before it is made ``slowdown`` times as long."""
    if trace is None or at is None:
        return 8 * size / min(rate, most)
    return trace.capped(most).seconds(at, 8 * size, slowdown)


def _blocks(
    shapes: BlockShapes,
    layers: range,
    ranks: Mapping[str, int],
    batch: int,
    tokens: int,
    checkpointing: bool,
    trained: Collection[str],
    *,
    to_cut: bool = True,
) -> Work:
    placed = _by_layer(shapes, ranks)
    received = layers.start > 0 and to_cut
    lowest = layers.start if received else min(placed, default=layers.stop)
    each = batch * tokens
    work = Work(0.0 if layers.start else float(each * shapes.entry), 0.0)
    # blocks with the same adapters, and above the same, cost the same
    alike = Counter((tuple(placed.get(i, {}).items()), i >= lowest, i > lowest or received) for i in layers)
    for (adapters, passed, below), count in alike.items():
        here = dict(adapters)
        once = shapes.forward_once(here)
        forward, backward = each * shapes.forward(tokens, here) + once, 0.0
        if passed:
            backward = each * shapes.backward(tokens, here, below, trained) + shapes.backward_once(here, trained)
            backward += checkpointing * (each * shapes.again(tokens, here, below) + once)
        work += Work(count * forward, count * backward)
    return work


def _by_layer(shapes: BlockShapes, ranks: Mapping[str, int]) -> dict[int, dict[str, int]]:
    """Ranks by block and by name in the block."""
    placed: dict[int, dict[str, int]] = {}
    for path, rank in ranks.items():
        number, name = path[len(shapes.blocks) + 1 :].split(".", 1)
        placed.setdefault(int(number), {})[name] = rank
    return placed


def _known(device: Device, figure: str) -> float:
    if (value := getattr(device, figure)) is None:
        raise ValueError(f"device {device.name} has no {figure}; simulated time needs it")
    return float(value)


def _or(device: Device | None, figure: str, default: float) -> float:
    value = getattr(device, figure) if device is not None else None
    return default if value is None else value
