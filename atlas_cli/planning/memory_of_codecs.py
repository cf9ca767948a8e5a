"""The memory of a client with what its codecs take: in its steps, and at the ends of rounds."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import NamedTuple

from torch import Tensor

from atlas_cli.aggregation.contract import TURNS
from atlas_cli.planning.memory.encoding import coding_bytes, upload_bytes
from atlas_cli.planning.memory.party_memory import PartyMemory
from atlas_cli.planning.memory.step import ELEMENT
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.planning.round_bytes import Shape, head_sent, head_tensors
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.parameter_codec import ParameterCodec, adapter_shapes


def with_codecs_of_steps(plan: Plan, client: ClientPlan, memory: PartyMemory, shape: Shape, texts: int) -> PartyMemory:
    """The same memory with what is alive while messages of a batch are encoded and decoded, and what is kept of
    ``texts`` tokens."""
    if plan.config.mode != "split-federated" or not client.wire.by_kind():
        return memory
    codecs, numbers = plan.codecs(client), shape.batch * shape.tokens * plan.hidden_size
    alive = coding_bytes(codecs, shape.batch, shape.tokens)
    memory = memory.encoding_steps(alive, client.learns, ELEMENT[client.dtype] * numbers)
    return memory.keeping(texts and texts * codecs.kept_token_bytes("client"))


def with_codecs_of_adapters(plan: Plan, client: ClientPlan, memory: PartyMemory, task: BaseTask) -> PartyMemory:
    """The same memory with copies of adapters and head, and what is alive while an upload is encoded, when nothing of a
    step is left."""
    copies = coded_copies(plan, client, task)
    of_step = memory.gradients + memory.saved_activations
    return memory.encoding(copies.encoding, of_step).keeping(copies.kept)


class CodedCopies(NamedTuple):
    """Of what a client sends at the ends of rounds by a codec: bytes that it keeps, and that are alive meanwhile."""

    kept: int
    encoding: int


def coded_copies(plan: Plan, client: ClientPlan, task: BaseTask) -> CodedCopies:
    """A copy of what it was delivered while it trains, and with feedback one of what its uploads lost."""
    asked = client.wire.of_parameters()
    if not asked:
        return CodedCopies(0, 0)
    method, head = method_of(plan.config), {name: tuple(t.shape) for name, t in _head_sent(plan, client, task).items()}
    whole, ranks = plan.config.mode != "split-federated", dict(client.ranks)
    ranks |= plan.above(client.cut) if whole else {}

    def shapes(parts: Collection[str]) -> dict[str, tuple[int, ...]]:
        return {**adapter_shapes(ranks, plan.sizes, parts), **head}

    def size(parts: Collection[str]) -> int:
        return sum(4 * prod(shape) for shape in shapes(parts).values())

    sent = dict.fromkeys(method.parts_of(merge).sent for merge in TURNS)
    feedback = "adapters" in asked and asked["adapters"].feedback
    lost = size({part for parts in sent for part in parts}) if feedback else 0
    up = ParameterCodec.of(client.wire, "adapters")
    encoding = max(upload_bytes(up, shapes(parts)) for parts in sent)
    return CodedCopies(size(plan.form.parts) + lost, encoding)


def _head_sent(plan: Plan, client: ClientPlan, task: BaseTask) -> dict[str, Tensor]:
    """The head that a client sends, which in modes without a split is the task's."""
    if plan.config.mode == "split-federated":
        return head_sent(plan, client, task)
    return head_tensors(task, plan.hidden_size)
