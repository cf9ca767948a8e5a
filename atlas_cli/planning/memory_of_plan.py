"""Predicts the memory of every party of a planned run, that of other ways to train, and the bytes of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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


@dataclass(frozen=True)
class Prediction:
    """The predicted memory and traffic of a run.

    Attributes:
        shapes: the batch assumed for each client and for the server, by name.
        alike: for each client, the first client with the same needs, which may be itself.
        references: full fine-tuning and unsplit LoRA, in the largest batch of the clients.
        rounds: the bytes on the wire by client; empty in modes without a server.
        rows: of the token embedding, of clients that do not hold its table.
        kept: bytes of the activations that the server keeps of the texts of frozen clients, part of its cut buffers;
            None where no client is frozen, or their texts are not known.
        kept_texts: bytes of what codecs keep of texts, by party, part of its cut buffers.
        copies: bytes of what the server keeps of deliveries that are changes, part of its cut buffers; None without.
    """

    shapes: Mapping[str, Shape]
    alike: Mapping[str, str]
    clients: Mapping[str, PartyMemory]
    server: PartyMemory | None
    references: Mapping[str, PartyMemory]
    rounds: Mapping[str, RoundBytes]
    rows: Mapping[str, int]
    kept: int | None = None
    kept_texts: Mapping[str, int] = field(default_factory=dict)
    copies: int | None = None

    def record(self) -> dict[str, Any]:
        """The prediction as JSON in bytes, with the keys of memory.json, ``transient`` and ``peak``."""
        kept = self._kept_texts(SERVER) | ({} if self.kept is None else {"kept_activations": self.kept})
        kept |= {} if self.copies is None else {"kept_adapters": self.copies}
        parts = {id(m): _parts(m) for m in {id(m): m for m in self.clients.values()}.values()}  # those alike share one
        of_server = {**_parts(self.server), **kept, "batch": self._batch(SERVER)} if self.server is not None else None
        return {
            "unit": "bytes",
            "clients": {
                name: {
                    **parts[id(m)],
                    **self._rows(name),
                    **self._kept_texts(name),
                    "batch": self._batch(name),
                    "alike": self.alike[name],
                }
                for name, m in self.clients.items()
            },
            "server": of_server,
            "references": {name: _parts(m) for name, m in self.references.items()},
            "round": {name: sent.record() for name, sent in self.rounds.items()},
        }

    def _rows(self, name: str) -> dict[str, int]:
        return {"embedding_rows": self.rows[name]} if name in self.rows else {}

    def _kept_texts(self, name: str) -> dict[str, int]:
        return {"kept_texts": self.kept_texts[name]} if name in self.kept_texts else {}

    def _batch(self, name: str) -> dict[str, Any]:
        shape = self.shapes[name]
        return {"size": shape.batch, "tokens": shape.batch * shape.tokens, "padded": shape.padded}


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
    training = plan.config.training
    full = full_shape(training)
    given, rows, texts = shapes or {}, rows or {}, texts or {}
    kept_texts = kept_texts_of_parties(plan, texts)
    tasks = {name: build_task_of(plan, name, classes.get(name, ())) for name in plan.config.task_groups}
    clients: dict[str, PartyMemory] = {}
    first: dict[Any, str] = {}
    alike: dict[str, str] = {}
    beside_of = {kind.key: tuple(plan.beside(kind).items()) for kind in plan.kinds}
    for client in plan.clients:
        shape, held, steps = given.get(client.name, full), rows.get(client.name), client.local_steps
        own_head = client.task_group if _has_head(plan, client) else None
        beside = beside_of[client.key], kept_texts.get(client.name)
        own = (client.checkpointing, client.format, repr(client.wire), *beside)
        kind = (client.cut, client.learns, steps, tuple(client.ranks.items()), shape, own_head, held, *own)
        alike[client.name] = first.setdefault(kind, client.name)
        known, task, tokens = clients.get(alike[client.name]), tasks[client.task_group], texts.get(client.name, 0)
        clients[client.name] = known or client_memory(plan, client, task, shape, held, tokens)
    largest = max(clients, key=lambda name: clients[name].saved_activations)
    used = {name: given.get(name, full) for name in clients}
    split = plan.config.mode == "split-federated"
    if split:
        used[SERVER] = given.get(SERVER, used[largest])
    server = _server_memory(plan, tasks, used, served) if split else None
    kept_bytes = _kept_bytes(plan, kept) if kept and split else None
    copies = copies_at_server(plan, tasks) if split else None
    if server is not None:
        server = server.keeping((kept_bytes or 0) + kept_texts.get(SERVER, 0) + (copies or 0))

    found: dict[tuple[str, Shape], RoundBytes] = {}

    def in_a_round(client: ClientPlan) -> RoundBytes:
        task, kind = tasks[client.task_group], (client.key, used[client.name])
        if client.name in sent:
            return frozen_round_bytes(plan, client, task, sent[client.name])
        found[kind] = found.get(kind) or round_bytes(plan, client, task, used[client.name])
        return found[kind]

    return Prediction(
        shapes=used,
        alike=alike,
        clients=clients,
        server=server,
        references=_references(plan, next(iter(tasks.values())), used[largest]),
        rounds={c.name: in_a_round(c) for c in plan.clients} if split else {},
        rows=rows,
        kept=kept_bytes,
        kept_texts=kept_texts,
        copies=copies,
    )


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


def _parts(memory: PartyMemory) -> dict[str, Any]:
    return {**asdict(memory), "peak": memory.peak}


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
    copies = [by_name[client.task_group] for client in plan.clients]
    return replace(
        memory,
        optimizer=sum(optimizer_bytes(step.optimizer, copy.trained, copy.tensors) for copy in copies) + merging,
        transient=memory.transient + sum(copy.trained for copy in copies),
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
    return sum(
        count * plan.codecs(plan.by_name[client]).payload_bytes("activations", 1, 1) for client, count in tokens.items()
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
    plan: Plan, tasks: Mapping[str, BaseTask], used: Mapping[str, Shape], served: str | None
) -> PartyMemory:
    """The memory of the server in its batch.

    Where it is not known whose that is, it is of a client with a batch like it, where there is one: of those of the
    lowest cut it has the widest dtype, and a gradient goes back if any of them gets one.
    """
    like = [client for client in plan.clients if used[client.name][:2] == used[SERVER][:2]] or list(plan.clients)
    whose = like if served is None else [plan.by_name[served]]
    answered = any(client.waits for client in whose)
    lowest = [client for client in whose if client.cut == plan.cut]
    lowest = lowest or [client for client in plan.clients if client.cut == plan.cut]
    received = max((client.dtype for client in lowest), key=lambda dtype: ELEMENT[dtype])
    return server_memory(plan, tasks, used[SERVER], received, answered=answered)


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
