"""Bytes on the wire of a planned round, by client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from atlas_cli.aggregation.contract import TURNS, Layer, Shapes
from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.models.auxiliary_head import trained_tensors
from atlas_cli.models.cut_parts import NO_PARTS, CutParts
from atlas_cli.planning.client_rows import KeptTexts, NewTexts
from atlas_cli.planning.devices.step_bytes import StepBytes, frozen_step_bytes, step_bytes
from atlas_cli.planning.method import method_of, shares_gradients
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.messages import Adapters, BaseRows, BaseTotal, FirstGradients, MeanGradients, Message, NamedTensors
from atlas_cli.wire.parameter_codec import COUNTS, RANKS, ParameterCodec


class Shape(NamedTuple):
    """A batch: examples, tokens of each with padding, and whether there is padding."""

    batch: int
    tokens: int
    padded: bool


def full_shape(training: TrainingConfig) -> Shape:
    """A full batch of the longest examples."""
    return Shape(training.batch_size, training.max_length, training.batch_size > 1)


@dataclass(frozen=True)
class RoundBytes:
    """Serialised bytes that a client which takes part in a round sends and receives; set-up excluded.

    Of one that is frozen ``up`` is while its texts are new to the server. Where these are known (``once``), it is of
    the first round, and ``later`` of one after all were sent, None if the run ends before.
    """

    up: int
    down: int
    later: int | None = None
    once: bool = False

    def record(self) -> dict[str, int | None]:
        """As JSON."""
        later = {"later_bytes_up": self.later} if self.once else {}
        return {"bytes_up": self.up, "bytes_down": self.down, **later}


@dataclass(frozen=True)
class RoundMessages:
    """What a client exchanges in each local step in which it does (``uploads`` says which), and the sizes of its
    messages at the end of the round.

    Attributes:
        coded_up, coded_down: numbers in the messages at the end that codecs encode and decode.
    """

    step: StepBytes
    uploads: tuple[bool, ...]
    end_up: tuple[int, ...]
    end_down: tuple[int, ...]
    coded_up: int = 0
    coded_down: int = 0


def round_bytes(plan: Plan, client: ClientPlan, task: BaseTask, shape: Shape) -> RoundBytes:
    """What a client that takes part sends and gets, in a round after the first in which all clients of its group take
    part; of one that is frozen, while its texts are new to the server; with a method that alternates, at most."""
    sent = round_messages(plan, client, task, shape)
    steps = sum(sent.uploads)
    return RoundBytes(steps * sent.step.up + sum(sent.end_up), steps * sent.step.down + sum(sent.end_down))


def frozen_round_bytes(plan: Plan, client: ClientPlan, task: BaseTask, texts: KeptTexts) -> RoundBytes:
    """What a frozen client sends of its texts in the first round, and once the server has them."""

    def of(step: NewTexts) -> int:
        labels, codecs = task.blank_labels_of_texts(step.lengths), plan.codecs(client)
        return frozen_step_bytes(plan.hidden_size, step.batch, step.lengths, client.dtype, labels, codecs)

    def sent(steps: Sequence[NewTexts]) -> int:
        return sum(map(of, steps))

    return RoundBytes(sent(texts.first), 0, sent(texts.later) if texts.later else None, once=True)


def round_messages(plan: Plan, client: ClientPlan, task: BaseTask, shape: Shape) -> RoundMessages:
    """The messages of such a round."""
    config, training, frozen = plan.config, plan.config.training, client.learns == "frozen"
    texts = [shape.tokens] * shape.batch
    labels = task.blank_labels_of_texts(texts) if frozen else task.blank_labels(shape.batch, shape.tokens)
    step = step_bytes(
        plan.hf_config,
        shape.batch,
        shape.tokens,
        client.dtype,
        features=config.model.dtype,
        labels=labels if training.labels == "server" else None,
        codecs=plan.codecs(client),
        frozen=frozen,
        answered=client.waits,
    )
    method = method_of(config)
    head = head_sent(plan, client, task) if method.SENT else {}
    layers = {path: Layer(rank, *plan.sizes[path]) for path, rank in client.ranks.items()}
    extra = method.extra_tensors(layers)

    def size(message: Message) -> int:
        return message.with_header(client.wire.header == "compact").bytes

    def merged(name: str, parts: Sequence[str], more: Shapes) -> tuple[list[int], int]:
        adapters, of_head, numbers = _factors(plan, client.ranks, "lora_", parts), head, 0
        if (codec := ParameterCodec.of(client.wire, name)) is not None:
            numbers = sum(tensor.numel() for tensor in (*adapters.values(), *head.values()))
            adapters, of_head = _blank(codec, adapters), _blank(codec, head)
            if method.PRUNES and name == "adapters":
                adapters[RANKS] = torch.empty(len(client.ranks), dtype=torch.int32, device="meta")
        messages = Adapters("", adapters, _empty(more)), NamedTensors("", of_head)
        return [size(message) for message in messages if message.tensors], numbers

    turns = [method.parts_of(merge) for merge in TURNS]
    up, coded_up = max((merged("adapters", turn.sent, extra.up) for turn in turns), key=_all_bytes)
    down, coded_down = max((merged("deliveries", turn.delivered, extra.down) for turn in turns), key=_all_bytes)
    if not client.ranks:
        up, down, coded_up, coded_down = [], [], 0, 0
    if shares_gradients(config) and client.ranks:
        gradients = [_factors(plan, client.ranks, "lora_", turn.trained) for turn in turns]
        up.append(max(size(FirstGradients("", each)) for each in gradients))
        down.append(max(size(MeanGradients("", each)) for each in gradients))
    if method.CHANGES_BASE:  # the stacks of all clients, and with them what adapters were worth where they go on
        group = plan.group_ranks(client.task_group)
        codec, rows = ParameterCodec.of(client.wire, "deliveries"), dict.fromkeys(group, 0)
        for kind in plan.kinds_of(client.task_group):
            for path, rank in kind.ranks.items():
                rows[path] += rank * plan.config.entry_of(kind.key).count
        if method.DELIVERED:  # where a codec sends these, each client goes on from its own
            rows = {path: rank + (group[path] if codec is None else rank) for path, rank in rows.items()}
        sent = _factors(plan, rows, "base_", ("A", "B"))
        if codec is not None:
            coded_down += sum(tensor.numel() for tensor in sent.values())
            sent = _blank(codec, _factors(plan, rows, "lora_", ("A", "B")))
            sent[COUNTS] = torch.empty(len(group), dtype=torch.int32, device="meta")
        down.append(size(BaseRows("", sent)))
    if beside := plan.beside(client):
        down.append(max(size(BaseTotal("", _factors(plan, beside, "base_", turn.delivered))) for turn in turns))
    return RoundMessages(step, tuple(client.uploads(training)), tuple(up), tuple(down), coded_up, coded_down)


def _all_bytes(merged: tuple[list[int], int]) -> int:
    return sum(merged[0])


def _blank(codec: ParameterCodec, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters as a codec sends them, on the meta device."""
    return codec.blank({name: tuple(tensor.shape) for name, tensor in tensors.items()})


def _factors(plan: Plan, ranks: Mapping[str, int], prefix: str, parts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The adapters as they are sent, on the meta device."""
    tensors = {}
    for path, rank in ranks.items():
        d_in, d_out = plan.sizes[path]
        for part, shape in (("A", (rank, d_in)), ("B", (d_out, rank))):
            if part in parts:
                tensors[f"{path}.{prefix}{part}"] = torch.empty(shape, device="meta")
    return tensors


def _empty(shapes: Shapes) -> dict[str, torch.Tensor]:
    """The tensors that a method sends besides adapters, on the meta device."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def head_sent(plan: Plan, client: ClientPlan, task: BaseTask) -> dict[str, torch.Tensor]:
    """The trained parameters of the head that a client of a split has, as they are sent; none where it has none."""
    if client.learns == "auxiliary":
        return trained_tensors(plan.hf_config, plan.family, task)
    if plan.config.training.labels == "server":
        return {}
    return head_tensors(task, plan.hidden_size, CutParts.of(plan.config.privacy))


def head_tensors(task: BaseTask, hidden_size: int, parts: CutParts = NO_PARTS) -> dict[str, torch.Tensor]:
    """The trained parameters of a head, as they are sent, with those that mechanisms add to it."""
    with torch.device("meta"):
        head = parts.add_to(task.build_head(hidden_size, nn.Identity()), hidden_size)
    return {f"head.{name}": p for name, p in head.named_parameters() if p.requires_grad}
