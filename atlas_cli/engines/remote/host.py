"""Hosts clients in a process other than the server's: the methods that an engine calls, by client.

A process has its own half of the base, and the plan and examples of each client that it ever served. At the start of a
round a client's state is loaded from the server's record, so that any process can serve it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import Batch
from atlas_cli.engines.remote.arrays import Packed, pack, unpack
from atlas_cli.engines.remote.sent_state import SentState
from atlas_cli.errors import NonFiniteError, PluginError
from atlas_cli.federation.batches import ClientBatches
from atlas_cli.federation.client_state.kept_texts import kept_texts_of
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.client_state.new_client import new_client
from atlas_cli.federation.parties.auxiliary_client import AuxiliaryClient
from atlas_cli.federation.parties.optimizers import learning_rate_factor
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.shared_client_pass import ClientPass
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.federation.parties.unsplit_client import UnsplitClient
from atlas_cli.models.frozen.kernel_order import prepacked_error
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.skeleton import contents_sha256, weights_of
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.memory.embedding_rows import held_tokens
from atlas_cli.planning.plan import ClientPlan
from atlas_cli.plugin_errors import described, plugin_of
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import Features, Gradients, HiddenStates


class SentMessage(NamedTuple):
    """A message as it crosses the wire; beside it, for the records, what its codec lost, and how its header is."""

    tensors: Packed
    lost: Lost | None
    compact: bool

    @classmethod
    def of(cls, message: HiddenStates) -> SentMessage:
        """As it leaves a process."""
        return cls(pack(message.tensors), message.lost, message.compact)


class ClientSetup(NamedTuple):
    """What a client is built from: its plan, its batches (which know its task), and ranks above the cut, if unsplit."""

    planned: ClientPlan
    batches: ClientBatches
    upper: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """The result of a call, and the seconds that it computed."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class NotFinite:
    """A call that met a value that is not finite; no optimizer has stepped."""

    message: str


@dataclass(frozen=True)
class PluginFailed:
    """A call that a plug-in's code ended: every process would come to that, so that the run ends with it, too."""

    message: str
    traceback: str


@dataclass(frozen=True)
class LostCall:
    """A call that will not be answered, with the reason."""

    reason: str


Result = Answer | NotFinite | PluginFailed | LostCall


Who = str | tuple[str, ...]  # the client that a method is called for, or those of a pass
Ticket = Hashable  # stands for one call


class Calls(Protocol):
    """Calls of ``ClientHost`` methods; a process answers its calls in their order."""

    def place(self, client: str) -> int:
        """The process that serves a client in this round."""

    def start(self, who: Who, method: str, *args: Any) -> Ticket:
        """Call a method for a client, or for several of one process, without waiting for the answer."""

    def next(self, tickets: Collection[Ticket]) -> tuple[Ticket, Result]:
        """Wait for the next of these calls, which are under way, to be answered or lost."""


class ClientHost:
    """Serves clients by name, one call after another.

    Args:
        bases: what clients hold of the base, by format.
        threads: of torch, explicitly: sums differ between one and two.
    """

    def __init__(
        self, config: ExperimentConfig, bases: Mapping[WeightFormat, FrozenBase], device: torch.device, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.config, self.bases, self.device = config, dict(bases), device
        self._texts = kept_texts_of(config)
        self._weights = self.weights_sha256()
        self._made: dict[str, ClientSetup] = {}
        self._parties: dict[str, Party] = {}
        self._batches: dict[str, Batch] = {}
        self._passes: dict[tuple[str, ...], ClientPass] = {}

    def call(self, method: str, who: Who, *args: Any) -> Answer | NotFinite | PluginFailed:
        """Call one of the methods below for a client, or for those of a pass."""
        began = time.perf_counter()
        served: Callable[..., Any] = getattr(self, f"do_{method}")
        try:
            value = served(who, *args)
        except NonFiniteError as error:
            return NotFinite(str(error))
        except Exception as error:
            if isinstance(error, PluginError) or plugin_of(error) is not None:
                return PluginFailed(described(error), "".join(traceback.format_exception(error)))
            raise
        return Answer(value, time.perf_counter() - began)

    def do_begin(self, client: str, made: ClientSetup | None, sent: SentState) -> str:
        """Load a client's state from the end of the last round, with what was delivered since.

        Args:
            made: None if this process has it already.

        Returns:
            Hash of what it then exchanges (``Member.exchanged_sha256``).
        """
        if made is not None:
            self._made[client] = made
        planned, batches, upper = self._made[client]
        # anew, since ranks may have become smaller and larger again with a client that went back
        party = new_client(self.config, planned, self.bases[planned.format], batches.task, upper, self.device)
        party.wire.memory.store = self._texts
        if client in self._parties:
            self._parties[client].wire.memory.clear()
        member = Member(planned.task_group, 0.0, party.exchanged, party.head)
        sent.load(party, member)
        if sent.usage is not None:
            party.measure(held_tokens(planned.format, batches.features, batches.pad))
        self._parties[client] = party
        self._passes = {clients: each for clients, each in self._passes.items() if client not in clients}
        return member.exchanged_sha256(anew=True)

    def do_forward(self, client: str, number: int, step: int) -> SentMessage | None:
        """The activation message of a local step; None where its Poisson sample is empty, or nothing goes up."""
        batch, party = self._batch(client, number, step), self._split(client)
        if isinstance(party, AuxiliaryClient):
            message = party.learn_batch(batch, number, step, self._rate(number, step))
        else:
            message = party.forward_batch(batch, number, step) if batch.features else None
        return SentMessage.of(message) if message is not None else None

    def do_answer_features(self, client: str, features: Packed) -> tuple[SentMessage, StepLoss]:
        """U-shaped split: the features' gradient, and the loss."""
        message = Features.of(client, unpack(features, self.device))
        back, loss = self._split(client).answer_features(message, self._batches[client].labels)
        return SentMessage.of(back), loss

    def do_backward(self, client: str, gradients: Packed, number: int, step: int) -> None:
        """Back-propagate what the server returned, and step."""
        party, message = self._split(client), Gradients.of(client, unpack(gradients, self.device))
        party.apply_gradients(party.wire.decode(message).gradients, self._rate(number, step))

    def do_forward_together(self, clients: tuple[str, ...], number: int, step: int) -> tuple[SentMessage, ...]:
        """The activation messages of a local step of several clients, computed in one pass."""
        batches = [self._batch(client, number, step) for client in clients]
        self._passes[clients] = ClientPass([self._split(client) for client in clients])
        return tuple(map(SentMessage.of, self._passes[clients].forward(batches, number, step)))

    def do_backward_together(
        self, clients: tuple[str, ...], gradients: tuple[Packed, ...], number: int, step: int
    ) -> None:
        """Back-propagate what the server returned to the clients of a pass, and step."""
        down = [
            Gradients.of(client, unpack(packed, self.device)) for client, packed in zip(clients, gradients, strict=True)
        ]
        self._passes.pop(clients).backward(down)
        for client in clients:
            self._split(client).step(self._rate(number, step))

    def do_step_on_noise(self, client: str, number: int, step: int) -> None:
        """The step of an empty Poisson sample."""
        self._split(client).step_on_noise(number, step, self._rate(number, step))

    def do_local_step(self, client: str, number: int, step: int) -> StepLoss:
        """A step of an unsplit client."""
        party, batch = self._parties[client], self._batch(client, number, step)
        assert isinstance(party, UnsplitClient)
        return party.train_on(batch.inputs(), batch.labels, number, step, self._factor(number, step))

    def do_first_gradients(self, client: str) -> Packed:
        """The gradients of a client's first local step, which waits for their mean."""
        control = self._parties[client].control
        assert control is not None
        return pack(control.first_gradients())

    def do_take_mean(self, client: str, mean: Packed) -> None:
        """Take the step that waits."""
        self._parties[client].take_mean(unpack(mean, self.device))

    def do_end(self, client: str) -> SentState:
        """The state of a client after its steps; it stops measuring."""
        party = self._parties.pop(client)
        self._batches.pop(client, None)
        return SentState.of(party, Member("", 0.0, party.exchanged, party.head))

    def weights_sha256(self) -> dict[WeightFormat, str]:
        """Hash of the frozen weights that this process holds, by format."""
        return {format: contents_sha256(weights_of(base)) for format, base in self.bases.items()}

    def unchanged(self) -> bool:
        """Whether the frozen weights are what they were at the start."""
        return self.weights_sha256() == self._weights and prepacked_error(list(self.bases.values())) == 0

    def _split(self, client: str) -> SplitClient:
        party = self._parties[client]
        assert isinstance(party, SplitClient)
        return party

    def _batch(self, client: str, number: int, step: int) -> Batch:
        self._batches[client] = self._made[client].batches.at(self._overall(number, step))
        return self._batches[client]

    def _overall(self, number: int, step: int) -> int:
        return (number - 1) * self.config.training.local_steps + step

    def _factor(self, number: int, step: int) -> float:
        return learning_rate_factor(self.config.training, self._overall(number, step))

    def _rate(self, number: int, step: int) -> float:
        return self._factor(number, step) * self.config.training.client_optimizer.lr
