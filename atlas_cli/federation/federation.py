"""The federation: everything that takes part in a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property

import torch
from torch import nn

from atlas_cli.errors import ConfigError
from atlas_cli.federation.client_state.new_client import heads_on_clients
from atlas_cli.federation.client_state.offloaded import OffloadedClients
from atlas_cli.federation.generated_text import GeneratedText
from atlas_cli.federation.loaded_experiment import LoadedExperiment
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.federation.parties.party import Party, TrainedModel
from atlas_cli.federation.parties.prefix_cache import PrefixCache
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.untrained_logits import UntrainedLogits
from atlas_cli.federation.protection import Protection
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.federation.virtual_clock import VirtualClock
from atlas_cli.models.adapters.lora import joined
from atlas_cli.models.adapters.origin import ORIGIN
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses
from atlas_cli.planning.cohort import sample_cohort
from atlas_cli.storage.tensor_store import TensorStore
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.recorded_messages import Recording


@dataclass(frozen=True)
class WarmStart:
    """The adapter that a task group started from, for the manifest and for the user.

    Attributes:
        folder: as configured; ``sha256``: of its adapter_model.safetensors.
        base: "the same by hash", or "unknown" where the folder does not say which weights it was trained on.
        head: "by class name" where it was taken over, or "new".
    """

    folder: str
    sha256: str
    base: str
    head: str

    def record(self) -> dict[str, str]:
        """For the manifest."""
        return asdict(self)

    def note(self, group: str) -> str:
        """One line for the user; a base that is not known is a warning."""
        known = f"{group} starts from {self.folder}, base {self.base}, head {self.head}"
        if self.base != "unknown":
            return known
        return f"warning: {known}: no {ORIGIN} says which weights it was trained on, so that they are not checked"


class LastUsed:
    """The clients that were used, ordered by their last use.

    Attributes:
        now: a counter that grows whenever clients are used; ``since(now)`` gives the clients used later.
    """

    def __init__(self) -> None:
        self.now = 0
        self._used: dict[str, int] = {}  # the last used at the end

    def record(self, clients: Iterable[str]) -> None:
        """Record that these clients are used now."""
        self.now += 1
        for client in clients:
            self._used.pop(client, None)
            self._used[client] = self.now

    def since(self, then: int) -> list[str]:
        """Clients that were used after ``now`` was ``then``; the time needed grows with their number."""
        found = []
        for client, used in reversed(self._used.items()):
            if used <= then:
                break
            found.append(client)
        return found


@dataclass
class Federation(LoadedExperiment):
    """A loaded experiment with its parties: everything that takes part in a run.

    Attributes:
        clients: Every client by name; with ``engine.offload`` an ``OffloadedClients``.
        server: The server; without a split it takes no part in local steps.
        aggregator: What merges and delivers the adapters of each task group.
        evaluator: What measures the models on test data.
        prefix_cache: The cache of frozen blocks, if the config asks for it.
        kept_texts: Where codecs keep something of texts, if not in memory alone.
        untrained: The logits of round 0 that were read or kept, in a run that computed it.
        graphs: What replays the passes of clients, if the config asks for it; those of the server are with it.
        recording: The messages that are kept for an audit, if the config asks for it.
        last_used: When each client was last used.
        fingerprints: For each client, the sum of its fingerprints so far.
        warm_starts: For each task group that started from an adapter, which adapter that was.
        under_way: The clients under way, if they wait for nobody (``training.asynchrony``).
        clock: The virtual time at which rounds begin, if a device has a trace; of clients under way they have the time.
        protection: The privacy mechanisms and their account; set once all parties are built.
    """

    clients: Mapping[str, Party]
    server: SplitServer
    aggregator: Aggregator
    evaluator: Evaluator
    prefix_cache: PrefixCache | None = None
    kept_texts: TensorStore | None = None
    untrained: UntrainedLogits | None = None
    graphs: GraphedPasses | None = None
    recording: Recording | None = None
    last_used: LastUsed = field(default_factory=LastUsed)
    fingerprints: dict[str, torch.Tensor] = field(default_factory=dict)
    warm_starts: dict[str, WarmStart] = field(default_factory=dict)
    under_way: UnderWay | None = None
    clock: VirtualClock | None = None
    protection: Protection = field(init=False, repr=False)

    @property
    def offload(self) -> OffloadedClients | None:
        """The clients, if idle ones are offloaded (``engine.offload``); else None."""
        return self.clients if isinstance(self.clients, OffloadedClients) else None

    def close(self) -> None:
        """Remove the files that parties keep beside the run."""
        if self.prefix_cache is not None:
            self.prefix_cache.close()
        if self.offload is not None:
            self.offload.store.close()
        if self.kept_texts is not None:
            self.kept_texts.close()

    @cached_property
    def generated(self) -> dict[str, GeneratedText]:
        """By task group, the examples for which text is generated and scored; empty without ``evaluation.generate``.

        Raises:
            ConfigError: a group has none.
        """
        if (rule := self.config.evaluation.generate) is None:
            return {}
        return {
            name: GeneratedText.of(rule, group, self.tokenizer, self.config.rows_seed)
            for name, group in self.data.items()
            if type(group.task).reference is not BaseTask.reference
        }

    def ledger(self, number: int) -> Ledger:
        """The byte ledger of a round; the recording, if there is one, sees each message that it counts."""
        return Ledger(None if self.recording is None else self.recording.watch(number))

    def starting(self, number: int) -> list[str]:
        """The clients that are asked in a round: its cohort, or as many as are not under way of it."""
        busy = self.under_way.passes if self.under_way is not None else ()
        return sample_cohort(self.plan, number, busy, self.protection.frozen(number))

    def trains(self, client: str) -> bool:
        """Whether a client is in the middle of its local steps, or its update waits, between two rounds."""
        return self.under_way is not None and client in self.under_way.passes

    def give_back(self, client: str) -> None:
        """Restore a client that is under way to what it was delivered, without moments, as a pass begins."""
        if self.under_way is not None:
            with self.at_hand([client]):
                self.under_way.restore(client)
                self.clients[client].reset_optimizer()

    def part_of(self, client: str) -> str:
        """The part whose head a client shares: its task group, or the clients of its task group in its cluster."""
        return self.aggregator.members[client].part

    @contextmanager
    def at_hand(self, clients: Iterable[str]) -> Iterator[None]:
        """Inside the block these clients can be used, and count as used; with ``engine.offload`` all others cannot."""
        names = list(clients)
        with nullcontext() if self.offload is None else self.offload.at_hand(names):
            yield
        self.last_used.record(names)

    def split_client(self, name: str) -> SplitClient:
        """A client of a split run.

        Raises:
            ConfigError: it holds the whole model.
        """
        party = self.clients[name]
        if not isinstance(party, SplitClient):
            raise ConfigError("only clients of a split can do this; use split-federated", key="mode")
        return party

    def model_of_client(self, client: str) -> TrainedModel:
        """The model that makes a client's predictions."""
        return self.clients[client].model(self.server, self.part_of(client))

    def scored_models(self, group: str) -> Iterator[tuple[str, TrainedModel]]:
        """What a group is scored by, one after the other: the models that it shares as ``groups/<part>``, or where its
        clients share nothing theirs, each at hand meanwhile, as ``clients/<name>``."""
        shared = self.models_of_group(group)
        yield from ((f"groups/{part}", model) for part, model in shared.items())
        for client in () if shared else self.members(group):
            with self.at_hand([client]):
                yield f"clients/{client}", self.model_of_client(client)

    def scored_by(self, client: str) -> str:
        """The name of the model, among ``scored_models``, that a client uses."""
        return f"groups/{self.part_of(client)}" if self.aggregator.group_adapter else f"clients/{client}"

    @property
    def client_heads(self) -> Mapping[str, nn.Module]:
        """The tasks' heads by part, where clients train them; auxiliary heads predict nothing."""
        return self.aggregator.heads if heads_on_clients(self.config) else {}

    def models_of_group(self, group: str) -> dict[str, TrainedModel]:
        """The models that make a group's predictions, with merged adapters; {} where clients share nothing.

        There is one under the group's own name, or one for each part of the group in a cluster of its own.
        """
        if not self.aggregator.group_adapter:
            return {}
        models = {}
        for part, of_clients in self.aggregator.group_weights.parts(group).items():
            merged, heads = self.aggregator.groups[of_clients].model(), {**self.server.heads, **self.client_heads}
            models[part] = TrainedModel(joined(self.server.adapters_above(part, 0), merged), heads[part])
        return models
