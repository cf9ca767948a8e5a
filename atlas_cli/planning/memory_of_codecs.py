"""The memory of parties with what codecs take: of a client in its steps and at the ends of rounds, and what either end
keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import NamedTuple

from torch import Tensor

from atlas_cli.aggregation.contract import TURNS, BaseMethod
from atlas_cli.planning.memory.encoding import coding_bytes, upload_bytes
from atlas_cli.planning.memory.party_memory import PartyMemory
from atlas_cli.planning.memory.step import ELEMENT
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.planning.round_bytes import Shape, head_sent, head_tensors
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.parameter_codec import ParameterCodec, adapter_shapes

SERVER = "server"


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
    sent = dict.fromkeys(method_of(plan.config).parts_of(merge).sent for merge in TURNS)
    feedback = "adapters" in asked and asked["adapters"].feedback
    lost = _size(_shapes(plan, client, task, {part for parts in sent for part in parts})) if feedback else 0
    up = ParameterCodec.of(client.wire, "adapters")
    encoding = max(upload_bytes(up, _shapes(plan, client, task, parts)) for parts in sent)
    return CodedCopies(_size(_shapes(plan, client, task, plan.form.parts)) + lost, encoding)


def copy_at_server(plan: Plan, client: ClientPlan, task: BaseTask) -> int:
    """Bytes of what the server keeps of what a client with a codec of deliveries holds: of that which is delivered, as
    each delivery is a change of the last. 0 without such a codec: an upload is a change of what the group has."""
    if not client.ranks or "deliveries" not in client.wire.of_parameters():
        return 0
    return _size(_shapes(plan, client, task, delivered_parts(method_of(plan.config))))


def copies_at_server(plan: Plan, tasks: Mapping[str, BaseTask]) -> int | None:
    """Of all clients; None where none has a codec of deliveries."""
    copies = [len(plan.names_of(kind)) * copy_at_server(plan, kind, tasks[kind.task_group]) for kind in plan.kinds]
    return sum(copies) or None


def delivered_parts(method: BaseMethod) -> set[str]:
    """The parts of adapters, "A" and "B", that are delivered after any merge."""
    return {part for merge in TURNS for part in method.parts_of(merge).delivered}


def kept_texts_of_parties(plan: Plan, tokens: Mapping[str, int]) -> dict[str, int]:
    """Bytes of what codecs keep of so many tokens of each client's texts, by party; none in modes without a split."""
    if not tokens or plan.config.mode != "split-federated":
        return {}
    found, at_server = dict[str, int](), 0
    for kind in plan.kinds:
        if not (counted := {name: tokens[name] for name in plan.names_of(kind) if name in tokens}):
            continue
        codecs = plan.codecs(kind)
        found |= {name: count * codecs.kept_token_bytes("client") for name, count in counted.items()}
        at_server += sum(counted.values()) * codecs.kept_token_bytes("server")
    return {**found, SERVER: at_server}


def _shapes(plan: Plan, client: ClientPlan, task: BaseTask, parts: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Of the given parts of its adapters, in modes without a split of those of the whole model, and of its head."""
    ranks = dict(client.ranks) | (plan.above(client.cut) if plan.config.mode != "split-federated" else {})
    head = {name: tuple(tensor.shape) for name, tensor in _head_sent(plan, client, task).items()}
    return {**adapter_shapes(ranks, plan.sizes, parts), **head}


def _size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(4 * prod(shape) for shape in shapes.values())


def _head_sent(plan: Plan, client: ClientPlan, task: BaseTask) -> dict[str, Tensor]:
    """The head that a client sends, which in modes without a split is the task's."""
    if plan.config.mode == "split-federated":
        return head_sent(plan, client, task)
    return head_tensors(task, plan.hidden_size)
