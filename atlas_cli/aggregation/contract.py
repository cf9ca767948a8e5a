"""The contract of an aggregation method. Each has a file in ``aggregation/methods/`` with a class named ``Method``.

A method is a subclass of ``BaseMethod`` that defines ``aggregate`` and overrides the defaults below where it differs.
A run has one instance of it, built from its options. A name that the contract does not have is an error when the file
is loaded; names that begin with an underscore are the file's own.

All methods work on scale-free factors: the sender's scale s_k is absorbed into B before aggregating (B_k <- s_k B_k)
and divided out for the receiver after, so that equal products mean equal updates whatever rank and alpha a client has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from atlas_cli.aggregation.shapes import mean_of_states
from atlas_cli.aggregation.shapes import resized as resized  # for authors of methods, too
from atlas_cli.config.schema.section import Section
from atlas_cli.models.adapters.lora import LORA, AdapterForm, AdapterSet
from atlas_cli.plugins import check

PARTS = ("A", "B")


class Factors(NamedTuple):
    """dW = B @ A of one layer, scale absorbed: A (r, d_in), B (d_out, r); or another ``form`` of r components."""

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """The rank r of the factors."""
        return self.A.shape[0]


class Parts(NamedTuple):
    """The parts of adapters, "A" and "B", that clients train, send and are delivered."""

    trained: tuple[str, ...]
    sent: tuple[str, ...]
    delivered: tuple[str, ...]


TURNS = (1, 2)  # an odd and an even number of a merge

Adapters = Mapping[str, Factors]
Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


class Layer(NamedTuple):
    """The sizes of one adapter: A is (rank, d_in) and B is (d_out, rank)."""

    rank: int
    d_in: int
    d_out: int


class ExtraTensors(NamedTuple):
    """Shapes by name of the float32 tensors that a method uses besides adapters.

    Attributes:
        up, down: tensors that a client sends at the end of a round, and tensors that it receives with a delivery.
        at_client: tensors that a client keeps while it trains (``ClientTerm.state``).
        at_server: tensors that the method keeps for a group (``BaseMethod.state``).
    """

    up: Shapes = MappingProxyType({})
    down: Shapes = MappingProxyType({})
    at_client: Shapes = MappingProxyType({})
    at_server: Shapes = MappingProxyType({})


LateAs = Literal["products", "factors"]
LinearAt = Literal["any ranks", "equal ranks"]


class Late(NamedTuple):
    """What an update began from that did not begin from the group's adapter as it is (``training.asynchrony``).

    Attributes:
        began: the adapters that the client had been delivered.
        factor: what its change is multiplied by, besides its weight.
    """

    began: Adapters
    factor: float


@dataclass(frozen=True)
class Update:
    """What one client sent at the end of a round.

    Attributes:
        weight: its weight before normalisation: its number of examples or of label tokens; with
            ``aggregation.normalise: fednova`` divided by its steps.
        adapters: as trained; a part that the method does not upload is the server's own idea of it. The round began
            with the first r rows and columns of the group's adapter. If the method ``SELECTS``: at the group's rank, as
            the client ran it, with the components that it trained as it sent them.
        extras: what ``ClientTerm.end_round`` gave, by name.
        late: what it began from, where that is another version of the group's adapter; only methods that take
            "products" (``TAKES_LATE``) see such updates.
        components: by layer, the components that it trained, if the method ``SELECTS``.
    """

    client: str
    weight: float
    adapters: Adapters
    extras: Tensors = field(default_factory=dict)
    late: Late | None = None
    components: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """The inputs of a merge besides adapters.

    Attributes:
        group: the task group or cluster that is merged.
        round: from 1.
        weights: the weights of all clients of the group, absent ones included, by layer and rank.
        merge: the number of this merge of the group, from 1; a round from which nobody is left has none.
    """

    group: str
    round: int
    weights: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    merge: int = 1


@dataclass(frozen=True)
class Merge:
    """The result of a merge.

    Attributes:
        adapters: the group's new adapter, every layer in the shapes of the one before.
        base: change of the frozen weights of every client of the group, as stacked factors.
        target: what would be delivered if no rank were cut, for the error ledger; None: ``adapters``.
    """

    adapters: dict[str, Factors]
    base: dict[str, Factors] = field(default_factory=dict)
    target: dict[str, Factors] | None = None


class NoOptions(Section):
    """The options of a method that has none."""


class ClientTerm:
    """The part of a method that acts at a client while it trains. Each client has one, on the machine that computes it.

    Attributes:
        state: named float32 tensors, which are kept while the client is idle, in checkpoints and on remote processes.
            ``ExtraTensors.at_client`` tells their shapes.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def __init_subclass__(cls) -> None:
        """Refuse names that the contract does not have: nothing would call them."""
        check(cls, ClientTerm)

    def receive(self, extras: Tensors) -> None:
        """Store the tensors that were delivered besides the adapter (``BaseMethod.extras_for``)."""
        self.state.update(extras)

    def begin_round(self, adapters: Adapters) -> None:
        """Called when a round begins, with the delivered adapter. Its tensors change in training: copy what is kept."""

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """The 0-d, differentiable penalty that is added to the loss of every local step, or None."""
        return None

    def corrected(self, gradients: Adapters) -> Adapters | None:
        """The gradients that the optimizer uses instead of those of a local step; None leaves them unchanged.

        A gradient of B is given as s times that of the client's own tensor, which is the direction in which the
        scale-free B moves; a part that is not trained has zeros.
        """
        return None

    def end_round(self, adapters: Adapters) -> dict[str, Tensor]:
        """The tensors that are sent besides the adapter after the last local step (``ExtraTensors.up``)."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """The state that the next round needs, by name."""
        return dict(self.state)

    def load_state_dict(self, state: Tensors) -> None:
        """Go on from what ``state_dict`` gave."""
        self.state = dict(state)


class BaseMethod(ABC):
    """How the adapters of a group are merged, and what of the result each client receives.

    Args:
        options: an instance of ``Options``; default: its defaults.
        seed: of the run, for what the method draws.
        server_memory: bytes that the merge of one layer may take; None: no limit.

    Attributes:
        SENT: parts that a client uploads, "A" and "B"; none: nothing is ever merged.
        DELIVERED: parts that are sent down after a merge; a receiver has the other parts, or draws them itself.
        TRAINED: parts that clients train. Of all three, a method that alternates says here what it ever does, and in
            ``parts_of`` what it does when.
        GROUP_ADAPTER: whether there is an adapter of the group to predict with and to export.
        CHANGES_BASE: whether a merge changes the frozen weights of the group's clients (``Merge.base``).
        PRUNES: whether clients lower their ranks after a round (``pruned``).
        DRAWS: whether clients draw new initial adapters after a merge (``drawn``).
        SELECTS: whether a client trains those components of the group's adapter that ``selected`` names, instead of the
            first r, and runs all others beside its frozen weights. It is delivered all of them.
        CUTS_MAY_DIFFER: whether a layer may lie on the server for some of the group's clients. The server is then one
            more holder of the layer. This needs both parts to be sent, and a base that does not change.
        EQUAL_CLIENTS: whether each client counts once, whatever ``aggregation.weights`` says.
        UNWEIGHTED: what it does instead of weighting by ``aggregation.weights``, after its name; None: it weights.
        TAKES_LATE: how it takes updates that began from earlier versions of the group's adapter: "products", it adds up
            changes of dW and reads ``Update.late``; "factors", it is given A and B as if they had begun now: the
            present ones and what they changed by. None: not at all.
        LINEAR: where the change of the group's dW, before ranks are cut, is the weighted sum of its clients' changes,
            which may then be normalised by local steps (``aggregation.normalise``): among clients of "any ranks", or of
            "equal ranks" alone, where what a client cannot hold would count as its change. None: nowhere.
        FIXED_POINT: whether clients that all train the same adapter are delivered exactly that; a test checks it.
        KEEPS_COMPONENTS: whether components stay in place, so that what an upload lost of one may be added to the next.
        Options: the config section of ``aggregation.options``.
        state: the method's float32 tensors for each group, by group and name; numbers are 0-d. They are in
            checkpoints. ``ExtraTensors.at_server`` tells their shapes. After clustering it may be of another rank than
            the group's adapter (``regroup``, ``resized``).
    """

    SENT: ClassVar[tuple[str, ...]] = PARTS
    DELIVERED: ClassVar[tuple[str, ...]] = PARTS
    TRAINED: ClassVar[tuple[str, ...]] = PARTS
    GROUP_ADAPTER: ClassVar[bool] = True
    CHANGES_BASE: ClassVar[bool] = False
    PRUNES: ClassVar[bool] = False
    DRAWS: ClassVar[bool] = False
    SELECTS: ClassVar[bool] = False
    CUTS_MAY_DIFFER: ClassVar[bool] = True
    EQUAL_CLIENTS: ClassVar[bool] = False
    UNWEIGHTED: ClassVar[str | None] = None
    TAKES_LATE: ClassVar[LateAs | None] = None
    LINEAR: ClassVar[LinearAt | None] = None
    FIXED_POINT: ClassVar[bool] = True
    KEEPS_COMPONENTS: ClassVar[bool] = False
    Options: ClassVar[type[Section]] = NoOptions
    options: Any = None

    def __init__(self, options: Any = None, *, seed: int = 0, server_memory: int | None = None) -> None:
        self.options = self.Options() if options is None else options
        self.seed, self.server_memory = seed, server_memory
        self.state: dict[str, dict[str, Tensor]] = {}

    def anew(self) -> Self:
        """The method as at the start of the run."""
        return type(self)(self.options, seed=self.seed, server_memory=self.server_memory)

    @abstractmethod
    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """Merge the adapters of a group.

        Args:
            current: the group's adapter before, at the largest rank of its clients; a layer that nobody sent stays.
            updates: one for each client that sent something, in the order of the config.
        """

    def form(self) -> AdapterForm:
        """What the components of all parties' adapters are; the method merges A and B of this form."""
        return LORA

    def parts_of(self, merge: int) -> Parts:
        """The parts that clients train for a group's merge of this number, from 1, send for it, and are delivered.

        They may differ between odd and even numbers, if not in how many parts are trained. A client that missed merges
        is delivered the parts of all of them.
        """
        return Parts(self.TRAINED, self.SENT, self.DELIVERED)

    def deliver(self, merged: Adapters, held: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
        """The adapter for one client, cut to its ranks: the first r rows and columns of each layer that it adapts.

        Args:
            merged: the group's adapter.
            held: the client's adapter before the delivery.
        """
        return truncated(merged, ranks)

    def merge_values(self, values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Merge one parameter of the clients' heads: by default the weighted mean of its values."""
        total = torch.zeros_like(values[0])
        for value, share in zip(values, shares, strict=True):
            total.add_(value, alpha=share)
        return total

    def pruned(self, sent: Adapters, trained: Adapters) -> dict[str, int]:
        """Ranks by layer that a client keeps after a round that began with ``sent``; used if the method ``PRUNES``."""
        return {path: factors.rank for path, factors in trained.items()}

    def selected(self, client: str, merge: int, path: str, rank: int, merged: Factors) -> Sequence[int]:
        """The components of a layer that a client of this rank trains for a group's merge of this number, from 1, of
        those of the group's adapter; in ascending order, from 0. It is called if the method ``SELECTS``."""
        return range(rank)

    def drawn(self, before: Factors, path: str, group: str, number: int) -> Factors:
        """The factors, of the rank of ``before``, from which a holder starts after the merge of round ``number``.

        It is called if the method ``DRAWS``.
        """
        return before

    def caution(self, n_clients: int) -> str | None:
        """A warning that the method is not meant for so few clients, or None."""
        return None

    def require_room(self, d_in: int, d_out: int) -> None:  # noqa: B027 most have no need
        """Check that a layer of this size can be merged in ``server_memory``.

        Raises:
            ConfigError: it cannot.
        """

    def client_term(self) -> ClientTerm | None:
        """A new client term, of which each client gets its own, or None if the method does nothing at clients."""
        return None

    def extra_tensors(self, layers: Mapping[str, Layer]) -> ExtraTensors:
        """The tensors besides adapters, given the layers of a client (for ``at_server``: of the group)."""
        return ExtraTensors()

    def extras_for(self, group: str, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
        """Tensors that a client of these ranks is sent with each delivery besides adapters (``ExtraTensors.down``)."""
        return {}

    def regroup(self, shares: Mapping[str, Mapping[str, float]]) -> None:
        """Continue after clients were regrouped, with the weighted mean of the states of their former groups.

        Args:
            shares: for each new group, the weight of its clients by former group; the weights of a group sum to 1.
        """
        before, self.state = self.state, {}
        for group, former in shares.items():
            known = [(share, before[name]) for name, share in former.items() if name in before]
            if known:
                self.state[group] = dict(known[0][1]) if len(former) == 1 else mean_of_states(known)

    def state_dict(self) -> dict[str, Tensor]:
        """The state that the next merge needs, as ``<group>/<name>``."""
        return {f"{group}/{name}": value for group, own in self.state.items() for name, value in own.items()}

    def load_state_dict(self, state: Tensors) -> None:
        """Go on from what ``state_dict`` gave."""
        self.state = {}
        for key, value in state.items():
            group, _, name = key.partition("/")
            self.state.setdefault(group, {})[name] = value


def elements(shapes: Shapes) -> int:
    """The number of elements of tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def absorb(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Factors]:
    """Convert tensors as sent (``<path>.lora_A``, ``<path>.lora_B``) to scale-free factors."""
    return {path: Factors(state[f"{path}.lora_A"], scale * state[f"{path}.lora_B"]) for path, scale in scales.items()}


def release(adapters: Adapters, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """Convert scale-free factors to the tensors of a receiver with these scales."""
    state = {}
    for path, scale in scales.items():
        state[f"{path}.lora_A"] = adapters[path].A.clone()
        state[f"{path}.lora_B"] = adapters[path].B / scale
    return state


def scales_of(adapters: AdapterSet) -> dict[str, float]:
    """The scale of every adapter of a set."""
    return {path: adapter.scaling for path, adapter in adapters.adapters.items()}


def truncated(merged: Adapters, ranks: Mapping[str, int]) -> dict[str, Factors]:
    """The first r rows of A and columns of B of each layer in ``ranks``."""
    return {path: Factors(merged[path].A[:rank], merged[path].B[:, :rank]) for path, rank in ranks.items()}


def delta(factors: Factors) -> Tensor:
    """dW (d_out, d_in) as a dense matrix."""
    return factors.B @ factors.A
