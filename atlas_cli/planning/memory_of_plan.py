"""Predicts the memory of every party of a planned run, that of other ways to train, and the bytes of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from atlas_cli.aggregation.contract import TURNS, Layer, elements
from atlas_cli.config.schema.experiment import OptimizerConfig
from atlas_cli.models.cut_parts import CutParts
from atlas_cli.planning.client_rows import KeptTexts
from atlas_cli.planning.devices.cost import head_step
from atlas_cli.planning.memory.embedding_rows import assumed_rows
from atlas_cli.planning.memory.party_memory import PartyMemory, adapter_bytes, bytes_of, optimizer_bytes
from atlas_cli.planning.memory.predict import predict_server, predict_split_client, predict_unsplit, predict_whole
from atlas_cli.planning.memory.step import ELEMENT, Step
from atlas_cli.planning.memory_of_codecs import (
    SERVER,
    copies_at_server,
    kept_texts_of_parties,
    with_codecs_of_adapters,
    with_codecs_of_steps,
)
from atlas_cli.planning.method import merge_optimizer_of, method_of, pull_of, shares_gradients
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.planning.prediction import PredictedKind, Prediction
from atlas_cli.planning.round_bytes import (
    RoundBytes,
    Shape,
    frozen_round_bytes,
    full_shape,
    head_sent,
    head_tensors,
    round_bytes,
)
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.messages import Adapters


def predict(
    plan: Plan,
    classes: Mapping[str, Sequence[str]],
    shapes: Mapping[str, Shape] | None = None,
    rows: Mapping[str, int] | None = None,
    kept: Mapping[str, int] | None = None,
    served: str | None = None,
    texts: Mapping[str, int] | None = None,
    sent: Mapping[str, KeptTexts] = MappingProxyType({}),
) -> Prediction:
    """Predict the memory of every party; clients that are alike are computed once.

    Args:
        classes: class names by task group, for tasks with classes.
        shapes: measured batches by client, and of the server; default: full batches of the longest examples, padded.
        rows: how many rows of the token embedding a client holds, for those that do not hold its table.
        kept: the tokens of the texts of frozen clients whose activations the server keeps, by client.
        served: the client whose batch the server's measured one is; None if that is not known.
        texts: the tokens of the texts of which codecs keep something, by client.
        sent: the texts of frozen clients, whose rounds are of what they send of these.
    """
    tasks = {name: build_task_of(plan, name, classes.get(name, ())) for name in plan.config.task_groups}
    split, kept_texts = plan.config.mode == "split-federated", kept_texts_of_parties(plan, texts or {})
    known = _Known(plan, shapes or {}, rows or {}, texts or {}, kept_texts, sent if split else {})
    kinds = _kinds(plan, tasks, known)
    largest = max(kinds, key=lambda kind: kind.memory.saved_activations)
    at_server = known.shapes.get(SERVER, largest.shape) if split else None
    server = _server_memory(plan, tasks, kinds, at_server, served) if at_server is not None else None
    kept_bytes = _kept_bytes(plan, kept) if kept and split else None
    copies = copies_at_server(plan, tasks) if split else None
    if server is not None:
        server = server.keeping((kept_bytes or 0) + kept_texts.get(SERVER, 0) + (copies or 0))
    return Prediction(
        kinds=kinds,
        names=[plan.names_of(kind) for kind in plan.kinds],
        server=server,
        server_shape=at_server,
        references=_references(plan, next(iter(tasks.values())), largest.shape),
        kept=kept_bytes,
        kept_texts=kept_texts.get(SERVER),
        copies=copies,
    )


class _Own(NamedTuple):
    """What a prediction may be given of one client; its round only where it is frozen and its texts are known."""

    shape: Shape
    rows: int | None = None
    texts: int = 0
    kept_texts: int | None = None
    round: RoundBytes | None = None


@dataclass(frozen=True)
class _Known:
    """What a prediction was given of clients, by name."""

    plan: Plan
    shapes: Mapping[str, Shape]
    rows: Mapping[str, int]
    texts: Mapping[str, int]
    kept_texts: Mapping[str, int]
    sent: Mapping[str, KeptTexts]

    def of(self, client: ClientPlan, task: BaseTask) -> dict[_Own, Sequence[str]]:
        """The clients of an entry by what is known of them; where nothing is, they are not looked at one by one."""
        names, full = self.plan.names_of(client), full_shape(self.plan.config.training)
        if not (self.shapes or self.rows or self.texts or self.sent):
            return {_Own(full): names}
        found: dict[_Own, list[str]] = {}
        for name in names:
            sent = self.sent.get(name)
            frozen = None if sent is None else frozen_round_bytes(self.plan, client, task, sent)
            own = self.rows.get(name), self.texts.get(name, 0), self.kept_texts.get(name), frozen
            found.setdefault(_Own(self.shapes.get(name, full), *own), []).append(name)
        return dict(found)


def _kinds(plan: Plan, tasks: Mapping[str, BaseTask], known: _Known) -> list[PredictedKind]:
    found: list[PredictedKind] = []
    first: dict[Any, PredictedKind] = {}
    for client in plan.kinds:
        task, own_head = tasks[client.task_group], client.task_group if _has_head(plan, client) else None
        own = client.checkpointing, client.format, repr(client.wire), tuple(plan.beside(client).items())
        needs = client.cut, client.learns, client.local_steps, tuple(client.ranks.items()), own_head, *own
        rounds: dict[Shape, RoundBytes] = {}
        for (shape, rows, texts, kept_texts, sent), names in known.of(client, task).items():
            if sent is None and plan.config.mode == "split-federated":
                sent = rounds[shape] = rounds.get(shape) or round_bytes(plan, client, task, shape)
            like = first.get(key := (*needs, shape, rows, kept_texts))
            memory = client_memory(plan, client, task, shape, rows, texts) if like is None else like.memory
            alike = names[0] if like is None else like.alike
            found.append(PredictedKind(client, names, alike, shape, memory, sent, rows, kept_texts))
            first.setdefault(key, found[-1])
    return found


def shapes_of(memory: Mapping[str, Any]) -> dict[str, Shape]:
    """The batches in a memory.json; unless it says otherwise, a batch of several examples is padded."""
    parties = {**memory["clients"], **({SERVER: memory["server"]} if memory["server"] else {})}
    batches = {name: parts["batch"] for name, parts in parties.items() if parts["batch"]["size"]}
    return {
        name: Shape(b["size"], b["tokens"] // b["size"], b.get("padded", b["size"] > 1)) for name, b in batches.items()
    }


def served_client(memory: Mapping[str, Any]) -> str | None:
    """The client whose batch the server's of a memory.json is; older ones do not say it."""
    client: str | None = memory["server"]["batch"].get("client") if memory["server"] else None
    return client


def build_task_of(plan: Plan, group: str, classes: Sequence[str]) -> BaseTask:
    """Build the task of a group as a run does."""
    spec = plan.config.task_groups[group]
    pooling = ("last" if plan.family.causal else "mean") if spec.pooling == "auto" else spec.pooling
    return build_task(spec.task, classes, pooling)


def client_memory(
    plan: Plan, client: ClientPlan, task: BaseTask, shape: Shape, rows: int | None = None, texts: int = 0
) -> PartyMemory:
    """The memory of one client in a batch of ``shape``, with its head if it holds one.

    ``rows`` of the token embedding are those that it holds instead of the table; None if they are not known. ``texts``:
    the tokens of its texts, where codecs keep something of them. The tensors that the aggregation method keeps at a
    client count as optimizer state, and so do a copy of what it trains that pulls it back, and gradients that correct
    its own; components of the group's adapter that it does not train count as adapters.
    """
    config, method = plan.config, method_of(plan.config)
    step = replace(
        _step(plan, shape),
        dtype=client.dtype,
        quantization=client.format.quantization,
        checkpointing=client.checkpointing,
        received_dtype=config.model.dtype,
        optimizer=_optimizer(config.training.client_optimizer),
        embedding_rows=_rows(plan, client, rows),
        parts=CutParts.of(config.privacy),
    )
    if config.mode != "split-federated":
        ranks: Mapping[str, int] = {**client.ranks, **plan.above(client.cut)}
        predict = partial(predict_unsplit, plan.family, plan.hf_config, ranks, plan.sizes, task=task)
    else:
        ranks, model = client.ranks, (plan.family, plan.hf_config, client.cut, client.ranks, plan.sizes)
        predict = partial(predict_split_client, client.learns, *model, task=task if _has_head(plan, client) else None)
    trained = dict.fromkeys(method.parts_of(merge).trained for merge in TURNS)
    memory = max((predict(replace(step, trained=parts)) for parts in trained), key=lambda each: each.peak)
    memory = with_codecs_of_steps(plan, client, memory, shape, texts)
    if not ranks:
        return memory
    memory = with_codecs_of_adapters(plan, client, memory, task)
    layers = {path: Layer(rank, *plan.sizes[path]) for path, rank in ranks.items()}
    kept = 4 * elements(method.extra_tensors(layers).at_client)
    if shares_gradients(config):
        kept += max(Adapters.closed_form(ranks, plan.sizes, parts) for parts in trained)
    if pull_of(config) and client.local_steps > 1:
        kept += memory.gradients
    beside = plan.beside(client)
    adapters = memory.adapters + adapter_bytes(beside, plan.sizes) + sum(map(plan.fixed_bytes, (ranks, beside)))
    return replace(memory, adapters=adapters, optimizer=memory.optimizer + kept)


def _rows(plan: Plan, client: ClientPlan, rows: int | None) -> int | None:
    if client.format.embedding == "table":
        return None
    return assumed_rows(int(plan.hf_config.vocab_size)) if rows is None else rows


def server_memory(
    plan: Plan, tasks: Mapping[str, BaseTask], shape: Shape, received: str, *, answered: bool
) -> PartyMemory:
    """The memory of the server, whose adapters, gradients and moments depend on ``training.server_update``.

    ``received`` is the widest dtype of activations that it gets in this batch; ``answered``: whether their client gets
    a gradient.
    """
    training = plan.config.training
    step = replace(
        _step(plan, shape),
        quantization=plan.config.model.quantization,
        received_dtype=received,
        optimizer=_optimizer(training.server_optimizer),
        answered=answered,
    )
    here = training.labels == "server"
    heads = [task if here else None for task in tasks.values()]

    def logits(task: BaseTask) -> float:
        return head_step(task, plan.hidden_size, int(plan.hf_config.vocab_size), 1, shape.tokens).forward

    traced = max(tasks.values(), key=logits) if here else None
    model = plan.family, plan.hf_config, plan.cut, plan.upper_ranks, plan.sizes
    memory = predict_server(*model, step, heads, traced=traced)
    groups = [_trained_for(plan, name, head) for name, head in zip(tasks, heads, strict=True)]
    total = sum(group.trained for group in groups)
    moments = optimizer_bytes(step.optimizer, total, sum(group.tensors for group in groups))
    merging = sum(_merge_optimizer_bytes(plan, name, task) for name, task in tasks.items())
    memory = replace(
        memory, adapters=sum(group.adapters for group in groups), gradients=total, optimizer=moments + merging
    )
    if training.server_update == "pooled":
        return memory
    # one group's gradients at a time; SplitFed V1 trains a copy for every client, each with moments of its own
    memory = replace(memory, gradients=max(group.trained for group in groups))
    if training.server_update == "sequential":
        return memory
    by_name = dict(zip(tasks, groups, strict=True))
    copies = [(len(plan.names_of(kind)), by_name[kind.task_group]) for kind in plan.kinds]
    return replace(
        memory,
        optimizer=sum(n * optimizer_bytes(step.optimizer, copy.trained, copy.tensors) for n, copy in copies) + merging,
        transient=memory.transient + sum(n * copy.trained for n, copy in copies),
    )


def _merge_optimizer_bytes(plan: Plan, group: str, task: BaseTask) -> int:
    """What ``aggregation.optimizer`` keeps of a task group and of its clients' head."""
    if (optimizer := merge_optimizer_of(plan.config)) is None:
        return 0
    layers = {path: Layer(rank, *plan.sizes[path]) for path, rank in plan.group_ranks(group).items()}
    head = max((head_sent(plan, client, task) for client in plan.kinds_of(group)), key=len)
    heads = optimizer.head_shapes({name.removeprefix("head."): value for name, value in head.items()})
    return 4 * (elements(optimizer.shapes(layers)) + elements(heads))


def _kept_bytes(plan: Plan, tokens: Mapping[str, int]) -> int:
    """Bytes of the activations of so many tokens of each frozen client."""
    counted = {kind.key: sum(tokens.get(name, 0) for name in plan.names_of(kind)) for kind in plan.kinds}
    return sum(
        counted[kind.key] * plan.codecs(kind).payload_bytes("activations", 1, 1)
        for kind in plan.kinds
        if counted[kind.key]
    )


class _TrainedForGroup(NamedTuple):
    """What the server trains for one task group: bytes of adapters, bytes of all of it, and how many tensors."""

    adapters: int
    trained: int
    tensors: int


def _trained_for(plan: Plan, group: str, head: BaseTask | None) -> _TrainedForGroup:
    # a group whose clients are all cut deeper than others has fewer adapters on the server
    ranks = plan.server_ranks(group)
    adapters, parts = adapter_bytes(ranks, plan.sizes) + plan.fixed_bytes(ranks), plan.form.parts
    weights = list(head_tensors(head, plan.hidden_size).values()) if head is not None else []
    trained = Adapters.closed_form(ranks, plan.sizes, parts) + bytes_of(weights)
    return _TrainedForGroup(adapters, trained, len(parts) * len(ranks) + len(weights))


def _server_memory(
    plan: Plan, tasks: Mapping[str, BaseTask], kinds: Sequence[PredictedKind], shape: Shape, served: str | None
) -> PartyMemory:
    """The memory of the server in its batch, of ``shape``.

    Where it is not known whose that is, it is of a client with a batch like it, where there is one: of those of the
    lowest cut it has the widest dtype, and a gradient goes back if any of them gets one.
    """
    like = [kind.client for kind in kinds if kind.shape[:2] == shape[:2]] or list(plan.kinds)
    whose = like if served is None else [plan.by_name[served]]
    answered = any(client.waits for client in whose)
    lowest = [client for client in whose if client.cut == plan.cut]
    lowest = lowest or [client for client in plan.kinds if client.cut == plan.cut]
    received = max((client.dtype for client in lowest), key=lambda dtype: ELEMENT[dtype])
    return server_memory(plan, tasks, shape, received, answered=answered)


def _references(plan: Plan, task: BaseTask, shape: Shape) -> dict[str, PartyMemory]:
    step = reference_step(plan, shape)
    ranks, model = unsplit_ranks(plan), (plan.family, plan.hf_config)
    unsplit = predict_unsplit(*model, ranks, plan.sizes, step, task=task, run_head=False)
    return {
        "full_fine_tuning": predict_whole(*model, step, task=task),
        "unsplit_lora": replace(unsplit, adapters=unsplit.adapters + plan.fixed_bytes(ranks)),
    }


def reference_step(plan: Plan, shape: Shape) -> Step:
    """The step of the ways to train that a run is compared with: its clients' step on a batch without padding.

    No weight is quantised there.
    """
    return _step(plan, shape._replace(padded=False))


def unsplit_ranks(plan: Plan) -> dict[str, int]:
    """The ranks of adapters for the whole model: on every layer, the largest of any party."""
    ranks: dict[str, int] = dict(plan.upper_ranks)
    for group in plan.config.task_groups:
        ranks |= {path: max(rank, ranks.get(path, 0)) for path, rank in plan.group_ranks(group).items()}
    return ranks


def _step(plan: Plan, shape: Shape) -> Step:
    config = plan.config
    return Step(
        *shape,
        dtype=config.model.dtype,
        fused_gelu=config.model.fused_gelu,
        dropout=config.lora.dropout,
        autocast=config.training.autocast == "bfloat16",
        trained=plan.form.parts,
        form=plan.form,
    )


def _optimizer(config: OptimizerConfig) -> str:
    return "sgd-momentum" if config.name == "sgd" and config.momentum > 0 else config.name


def _has_head(plan: Plan, client: ClientPlan) -> bool:
    """Whether a client has a head: of its task, or an auxiliary one."""
    on_clients = plan.config.mode != "split-federated" or plan.config.training.labels == "client"
    return on_clients or client.learns == "auxiliary"
