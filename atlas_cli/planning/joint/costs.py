"""What the clients of a plan cost with given settings, by the functions that predict a config's memory and bytes, and
the work that the virtual clock takes; equal questions are answered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from atlas_cli.aggregation.contract import TURNS
from atlas_cli.config.schema.experiment import ClientSpec, ExperimentConfig
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.models.block_paths import layer_of
from atlas_cli.planning.client_plan import ClientPlan, client_plan
from atlas_cli.planning.devices.clock import ClientWork, LocalStep
from atlas_cli.planning.devices.cost import Work
from atlas_cli.planning.joint.candidate import Crew
from atlas_cli.planning.joint.space import Option, Shared, applied, coded
from atlas_cli.planning.memory_of_codecs import copy_at_server
from atlas_cli.planning.memory_of_plan import client_memory, server_memory
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import Plan
from atlas_cli.planning.round_bytes import RoundMessages, Shape, round_messages
from atlas_cli.planning.step_flops import codec_flops, end_flops, step_flops
from atlas_cli.tasks.contract import BaseTask


@dataclass(frozen=True)
class ClientCosts:
    """The peak of a client of a crew, its bytes of a round, and its work; None where its device has no figures."""

    memory: int
    bytes_up: int
    bytes_down: int
    work: ClientWork | None


class Costs:
    """The costs of clients of a plan.

    Args:
        plan: with the shallowest cut that is asked for.
        rows: of the token embedding, by place of the client in the config, for those that do not hold its table.
        kept: the tokens of the texts of a client, whose activations the server keeps if it is frozen.
        texts: the tokens of all its texts, of which codecs may keep something.
    """

    def __init__(
        self,
        plan: Plan,
        tasks: Mapping[str, BaseTask],
        rows: Mapping[str, int],
        kept: Mapping[str, int],
        texts: Mapping[str, int],
    ) -> None:
        self.plan, self.tasks, self.rows, self.tokens, self.texts = plan, tasks, rows, kept, texts
        method = method_of(plan.config)
        self.trained = dict.fromkeys(method.parts_of(merge).trained for merge in TURNS)
        self._memory: dict[Any, int] = {}
        self._server: dict[Any, int] = {}
        self._messages: dict[Any, RoundMessages] = {}
        self._flops: dict[Any, tuple[Work, float]] = {}

    def of(self, crew: Crew, option: Option, shared: Shared) -> ClientCosts:
        """The costs of each client of a crew, in full batches of the longest examples."""
        client, rank = self._client(crew, option)
        shape = self._shape(shared.batch)
        sent = self._messages_of(client, rank, shape, shared.codec)
        up = sum(sent.uploads) * sent.step.up + sum(sent.end_up)
        down = sum(sent.uploads) * sent.step.down + sum(sent.end_down)
        texts = max(self.texts.get(name, 0) for name in crew.clients) if self.texts else 0
        beside = texts and texts * self.plan.codecs(self._encoded(client, shared.codec)).kept_token_bytes("client")
        memory = self._memory_of(self._encoded(client, shared.codec), rank, shape, shared.codec) + beside
        return ClientCosts(memory, up, down, self._work(crew, client, rank, shape, sent, shared.codec))

    def kept(self, crew: Crew, option: Option, shared: Shared) -> int:
        """Bytes of what the server keeps of a crew: of texts for codecs, of those of one that is frozen, and of what it
        delivered."""
        spec = spec_of(self.plan.config, crew.name, option)
        client = self._encoded(self._client(crew, option)[0], shared.codec)
        copies = len(crew.clients) * copy_at_server(self.plan, client, self.tasks[client.task_group])
        if spec.learns != "frozen" and not self.texts:
            return copies
        codecs = self.plan.codecs(client)
        kept = copies + codecs.kept_token_bytes("server") * _of_crew(self.texts, crew)
        if spec.learns != "frozen":
            return kept
        return kept + codecs.payload_bytes("activations", 1, 1) * _of_crew(self.tokens, crew)

    def server(self, cuts: Mapping[str, int], dtype: str, batch: int, answered: bool) -> int:
        """The peak of the server without what it keeps of clients.

        Args:
            cuts: the shallowest of each task group; ``dtype``: the widest type that comes from the shallowest of all.
            answered: whether any client gets a gradient.
        """
        key = tuple(sorted(cuts.items())), dtype, batch, answered
        if key not in self._server:
            lowest = min(cuts.values())
            clients = self.plan.clients.each(lambda client: replace(client, cut=cuts[client.task_group]))
            plan = replace(self.plan, cut=lowest, clients=clients, upper_ranks=self.plan.above(lowest))
            self._server[key] = server_memory(plan, self.tasks, self._shape(batch), dtype, answered=answered).peak
        return self._server[key]

    def _shape(self, batch: int) -> Shape:
        return Shape(batch, self.plan.config.training.max_length, batch > 1)

    def _client(self, crew: Crew, option: Option) -> tuple[ClientPlan, object]:
        spec = spec_of(self.plan.config, crew.name, option)
        cut = spec.split_layer
        assert spec.rank != "auto" and isinstance(cut, int)
        paths = ((path, layer_of(path, self.plan.family)) for path in self.plan.features)
        by_layer = spec.rank if isinstance(spec.rank, dict) else dict.fromkeys(range(cut), spec.rank)
        ranks = {path: by_layer[layer] for path, layer in paths if layer in by_layer and layer < cut}
        return client_plan(spec, cut, ranks), repr(spec.rank)

    def _memory_of(self, client: ClientPlan, rank: object, shape: Shape, codec: str | None) -> int:
        rows = self.rows.get(client.key) if client.format.embedding == "rows" else None
        has_head = self.plan.config.training.labels == "client" or client.learns == "auxiliary"
        group = client.task_group if has_head else None
        own = client.key if self._own_wire(client) != WireConfig() else ""
        how = client.checkpointing, client.learns, client.local_steps, codec, own
        key = client.cut, rank, client.format, how, shape, rows, group
        if key not in self._memory:
            task = self.tasks[client.task_group]
            self._memory[key] = client_memory(self.plan, client, task, shape, rows).peak
        return self._memory[key]

    def _messages_of(self, client: ClientPlan, rank: object, shape: Shape, codec: str | None) -> RoundMessages:
        own = client.key if self._own_wire(client) != WireConfig() else ""
        key = client.cut, rank, client.dtype, client.learns, shape, codec, own, client.task_group
        if key not in self._messages:
            client = self._encoded(client, codec)
            self._messages[key] = round_messages(self.plan, client, self.tasks[client.task_group], shape)
        return self._messages[key]

    def _encoded(self, client: ClientPlan, codec: str | None) -> ClientPlan:
        """A client where all have this codec that have none of their own."""
        return replace(client, wire=self._own_wire(client).over(coded(self.plan.config, codec)))

    def _own_wire(self, client: ClientPlan) -> WireConfig:
        return self.plan.config.entry_of(client.key).wire

    def _work(
        self, crew: Crew, client: ClientPlan, rank: object, shape: Shape, sent: RoundMessages, codec: str | None
    ) -> ClientWork | None:
        if crew.device is None or crew.device.lacks("compute", "uplink", "downlink"):
            return None
        key = client.cut, rank, client.checkpointing, client.learns, shape, client.task_group
        if key not in self._flops:
            task = self.tasks[client.task_group]
            turns = [step_flops(self.plan, client, client.ranks, task, shape, parts) for parts in self.trained]
            self._flops[key] = max(turns, key=lambda work: work[0].total)
        own, of_server = self._flops[key]
        one = sent.step
        encoding, decoding = codec_flops(self.plan, self._encoded(client, codec), shape)
        work, messages = own + encoding, (one.up, one.down, one.messages_up, one.messages_down)
        step = LocalStep(work.forward, work.backward, of_server + decoding, *messages, client.waits)
        quiet = LocalStep(own.forward, own.backward, 0.0, 0, 0, 0, 0, client.waits)
        ends = sum(sent.end_up), sum(sent.end_down), len(sent.end_up), len(sent.end_down)
        steps = [step if some else quiet for some in sent.uploads]
        encoded, decoded = end_flops(self._encoded(client, codec), sent.coded_up, sent.coded_down)
        return ClientWork(
            crew.clients[0],
            client.task_group,
            crew.device,
            steps,
            *ends,
            slowdown=crew.slowdown,
            encode_flops=encoded,
            decode_flops=decoded,
        )


def _of_crew(counted: Mapping[str, int], crew: Crew) -> int:
    """The sum over clients of a crew; of those that were not counted 0."""
    return sum(counted.get(name, 0) for name in crew.clients) if counted else 0


def spec_of(config: ExperimentConfig, name: str, option: Option) -> ClientSpec:
    """The first client of an entry of the config, with its settings."""
    entry = config.clients[name].model_copy(update={**applied(config, name, option), "count": 1})
    return config.model_copy(update={"clients": {name: entry}}).client_kinds()[0]
