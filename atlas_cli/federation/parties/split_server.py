"""The server side of the split: the top half, a head for each task group, loss and gradients, and the three ways to
update.

pooled (default): gradients of all clients of a group in a local step are summed, normalised by the total number of
labels, and stepped once; equal to training on the pooled batch and independent of the order of clients. sequential
(SplitFed V2, Thapa et al., 2004.12088): a step a client, in a seeded order. per-client (SplitFed V1): a copy of the
trained parameters for each client, averaged at the end of the round. In all three a client receives the gradient of its
own mean loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor

from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.federation.parties.kept_rows import KeptRows
from atlas_cli.federation.parties.measured_memory import Usage, saved_if_measured
from atlas_cli.federation.parties.numerics import precision, require_finite, require_finite_gradients, seeded_dropout
from atlas_cli.federation.parties.optimizers import state_bytes
from atlas_cli.federation.parties.server_copies import ServerCopies
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.shared_server_pass import ClientRequest, serve
from atlas_cli.federation.parties.trainables import GradientSums, StepLoss, Trainables, build_head, build_trainables
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.real_tokens import run_real_tokens
from atlas_cli.models.halves.split import run_half
from atlas_cli.storage.state_dict import StateDict, copy_into, fields_of, pop_prefix, tensors_and_values, with_prefix
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.messages import Activations, FeatureGradients, Features, Gradients


class SplitServer:
    """The server that holds blocks ``cut ..`` and a head for each task group.

    Args:
        cut: number of blocks that clients keep (the smallest, where they differ).
        tasks: of the task groups, by name.
        rank: LoRA rank on the server half, adapters a task group; 0 trains heads only.
        first_layers: by task group, the smallest cut of its clients, where groups differ.

    Attributes:
        groups: what it trains for each task group, or part of one in a cluster; ``heads`` and ``tasks`` likewise. In
            modes without a split there are none, and it takes no part in local steps.
        copies: of what it trains, with ``server_update: per-client``.
        usage: its measured memory; None where it is not measured.
        real_tokens: compute nothing for padding, and serve clients that share a pass.
        kept: the texts of frozen clients whose activations it has.
        graphs: replay shared passes; None where they are computed.

    Raises:
        ConfigError: a rank that a layer cannot have.
    """

    def __init__(
        self,
        base: FrozenBase,
        cut: int,
        tasks: Mapping[str, BaseTask],
        setting: Setting,
        rank: int = 0,
        first_layers: Mapping[str, int] | None = None,
    ) -> None:
        self.base, self.cut, self.half, self.tasks = base, cut, base.server_half(cut), dict(tasks)
        self.lora, self.training, self.seed, self.device = setting.lora, setting.training, setting.seed, setting.device
        self.usage: Usage | None = None
        self.real_tokens = False
        self.graphs: GraphedPasses | None = None
        self.kept = KeptRows()
        self.heads = {name: build_head(base, task, self.seed, name, self.device) for name, task in tasks.items()}
        first = first_layers or {}
        self.groups = {
            name: build_trainables(name, base, head, rank, first.get(name, cut), setting)
            for name, head in self.heads.items()
        }
        self._members: dict[str, str] = {}
        self._cuts: dict[str, int] = {}
        self._round, self._step, self._rate = 0, 0, self.training.server_optimizer.lr
        self.copies = ServerCopies(self.groups, keep_began=self.training.asynchrony is not None)
        self._features: dict[str, tuple[Tensor, Tensor]] = {}
        self._pending: Sequence[GradientSums] = ()

    def begin_round(self, members: Mapping[str, str], round_number: int, cuts: Mapping[str, int] | None = None) -> None:
        """Begin a round with ``{client: task group}``; ``cuts`` has the cuts that differ from the server's.

        Raises:
            ConfigError: a client whose blocks end before the server's begin.
        """
        self._members, self._cuts = dict(members) if self.groups else {}, dict(cuts or {})
        for client, cut in self._cuts.items():
            if cut < self.cut:
                raise ConfigError(f"client {client} keeps {cut} layers and the server begins at layer {self.cut}")
        self._round = round_number
        if self.training.server_update == "per-client":
            self.copies.groups = self.groups  # others since clusters were found
            self.copies.begin(self._members)

    def begin_step(self, step: int, learning_rate: float) -> None:
        """Begin a local step of the round, and set its learning rate."""
        self._step, self._rate = step, learning_rate

    def answer(self, message: Activations) -> tuple[Gradients, StepLoss]:
        """Forward, loss and backward for one activation message: the gradient message for its client.

        The server's own gradients are held until ``accept``, the next ``answer`` or ``finish_step``.

        Raises:
            NonFiniteError: activations or loss are not finite.
        """
        request = self._request(message)
        loss, count = self._loss(request, message)
        at_cut, gradients = self._backward(message.client, loss, None, request.received, request.trained)
        self._pending = [GradientSums.of_mean(request.trained, gradients, count)]
        return Gradients(message.client, at_cut), StepLoss(loss.item(), count)

    def learn(self, message: Activations) -> StepLoss:
        """As ``answer`` for a client that gets no gradient: none is computed below what the server trains."""
        request = self._request(message)
        request.received.requires_grad_(False)
        loss, count = self._loss(request, message)
        if self.usage is not None:
            self.usage.kept_activations, self.usage.kept_tokens = self.kept.size, self.kept.tokens or None
        found = torch.autograd.grad(loss, request.trained.parameters(), allow_unused=True)
        gradients = self._checked(message.client, found, request.trained)
        self._pending = [GradientSums.of_mean(request.trained, gradients, count)]
        return StepLoss(loss.item(), count)

    def answer_all(self, messages: Sequence[Activations]) -> list[tuple[Gradients, StepLoss]]:
        """As ``answer`` for several messages, of clients of one cut and dtype; for pooled updates.

        Raises:
            NonFiniteError: an activation, a loss or a gradient; nothing is held.
        """
        answers, self._pending = self.answers_and_sums(messages, self.base)
        return answers

    def answers_and_sums(
        self, messages: Sequence[Activations], base: FrozenBase
    ) -> tuple[list[tuple[Gradients, StepLoss]], Sequence[GradientSums]]:
        """The same computed with the modules of ``base``, and the gradients to ``accept``; none are held meanwhile."""
        served = [self._request(message) for message in messages]
        whens = [self._when(message.client) for message in messages]
        found = serve(base, self._cuts.get(messages[0].client, self.cut), served, self.graphs)
        for when, loss, gradient in zip(whens, found.losses, found.at_cut, strict=True):
            require_finite(loss, f"loss of {when}")
            require_finite(gradient, f"gradient for {when}")
        for trained, sums, _ in found.gathered:
            whose = f"on the server for {', '.join(whens)}"
            require_finite_gradients(trained.parameters(), sums, whose, trained.adapters.name_of)
        answers = [
            (Gradients(message.client, gradient), StepLoss(loss.item(), count))
            for message, loss, count, gradient in zip(messages, *found[:3], strict=True)
        ]
        return answers, found.gathered

    def features(self, message: Activations) -> Features:
        """U-shaped split, first half of a step: the server half's output, for the client's own head."""
        trained, (received, mask) = self._trained_for(message.client), self._receive(message)
        with self._running(trained, message):
            hidden = self._hidden(message.client, received, mask)
        self._features[message.client] = (hidden, received)
        return Features(message.client, hidden.detach())

    def answer_gradients(self, message: FeatureGradients) -> Gradients:
        """U-shaped split, second half of a step: back-propagate the features' gradient to the cut."""
        trained = self._trained_for(message.client)
        hidden, received = self._features.pop(message.client)
        require_finite(message.gradients, f"gradient sent by {self._when(message.client)}")
        at_cut, gradients = self._backward(message.client, hidden, message.gradients, received, trained)
        self._pending = [GradientSums.of_mean(trained, gradients, int(message.count))]
        return Gradients(message.client, at_cut)

    def accept(self, held: Sequence[GradientSums] = ()) -> None:
        """Accept the gradients of those answered last, or held ones; step at once unless the update is pooled.

        Raises:
            NonFiniteError: their norm is not finite.
        """
        for trained, sums, labels in held or self.hold():
            trained.gather_sums(sums, labels)
            if self.usage is not None:
                # those of all groups are alive together until a pooled step is finished
                alive = sum(t.gradient_bytes() for t in self._all_trained())
                self.usage.gradients = max(self.usage.gradients, alive)
            if self.training.server_update != "pooled":
                self._apply(trained)

    def hold(self) -> Sequence[GradientSums]:
        """The gradients of the clients answered last, to be accepted in their turn; none if nobody was."""
        pending, self._pending = self._pending, ()
        return pending

    def reject(self) -> None:
        """Drop the gradients that were not accepted yet: the client answered last was dropped from the round."""
        self._pending, self._features = (), {}

    def finish_step(self) -> None:
        """Pooled update: one step for each task group that took part."""
        self.accept()
        if self.training.server_update == "pooled":
            for group in dict.fromkeys(self._members.values()):
                self._apply(self.groups[group])

    def finish_round(
        self,
        kept: Collection[str] | None = None,
        factors: Mapping[str, float] = MappingProxyType({}),
        going_on: Collection[str] = (),
    ) -> None:
        """Per-client update: merge the copies of each group (``ServerCopies.merge``).

        Args:
            kept: the clients whose copies count; default: all that took part.
        """
        if self.training.server_update == "per-client":
            self.copies.merge([c for c in self._members if kept is None or c in kept], factors, going_on)

    def adapters_above(self, part: str, cut: int) -> AdapterSet:
        """Its adapters for a group, or part of one, on blocks from ``cut`` on."""
        if part not in self.groups:
            return AdapterSet({})
        upper = self.groups[part].adapters.adapters
        return AdapterSet({path: a for path, a in upper.items() if layer_of(path, self.base.family) >= cut})

    def task_of(self, client: str) -> BaseTask:
        """The task of a client of the round."""
        return self.tasks[self._members[client]]

    def state_dict(self) -> StateDict:
        """The trained values of each task group, or its part in a cluster, as ``<group>/...``, and ``kept``."""
        state: StateDict = {}
        for group, trained in self.groups.items():
            state |= with_prefix(f"{group}/", trained.state_dict())
        return state | self.kept.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state with the groups that there are.

        Raises:
            StateError: other groups, names, shapes or types.
        """
        state = dict(state)
        for group, trained in self.groups.items():
            with fields_of(group):
                trained.load_state_dict(pop_prefix(f"{group}/", state))
        self.kept.load_state_dict(state)
        copy_into({}, tensors_and_values(state, ())[0])

    def measure(self) -> Usage:
        """Start measuring memory: tensors held now count at once, saved activations with each step."""
        groups = self.groups.values()
        heads = [p for t in groups if t.head is not None for p in t.head.parameters()]
        adapters = [p for t in groups for p in (*t.adapters.parameters(), *t.adapters.held_frozen())]
        self.usage = Usage.held(self.half, adapters, [*heads, *self._output_embedding()])
        return self.usage

    def _output_embedding(self) -> list[Tensor]:
        """Frozen weights of a language-model head that the server computes logits with."""
        asked = self.training.labels == "server" and any(task.causal_only for task in self.tasks.values())
        return list(self.base.lm_head.parameters()) if asked and self.base.lm_head is not None else []

    def _request(self, message: Activations) -> ClientRequest:
        """What a client sent with its labels, and what is trained with it."""
        received, mask = self._receive(message)
        assert message.labels is not None, "labels: client keeps labels on the clients"
        task = self.task_of(message.client)
        return ClientRequest(self._trained_for(message.client), task, received, mask, message.labels)

    def _receive(self, message: Activations) -> tuple[Tensor, Tensor]:
        """Activations, checked, as a leaf in the client's dtype, and the mask (B, T) int64."""
        if not self.groups:
            raise AtlasError("the server takes no part in local steps unless mode is split-federated")
        self.accept()  # of the client before: a sequential update has stepped before the next is served
        require_finite(message.activations, f"activation sent by {self._when(message.client)}")
        received = message.activations.to(self.device).detach().requires_grad_()
        return received, message.mask.to(self.device).long()

    def _when(self, client: str) -> str:
        """For error messages."""
        return f"client {client}, round {self._round}, step {self._step}"

    @contextmanager
    def _running(self, trained: Trainables, message: Activations, gradient: bool = True) -> Iterator[None]:
        """The context of a forward for a message; ``gradient``: whether its client gets one."""
        trained.adapters.train()
        purpose = ("server", message.client, self._round, self._step)
        weights = [*self.half.parameters(), *trained.parameters(), *self._output_embedding()]
        weights += trained.adapters.held_frozen()
        with (
            seeded_dropout(self.lora.dropout, self.seed, *purpose, device=self.device),
            precision(self.device, self.training.autocast),
            trained.adapters.attached(self.base.model),
            saved_if_measured(self.usage, weights) as saved,
        ):
            yield
        if self.usage is not None:
            at_cut = message.activations
            both = (1 + gradient) * at_cut.nbytes
            size, tokens = at_cut.shape[:2]
            self.usage.add_step(saved.total, both, size, size * tokens, message.client)

    def _backward(
        self, client: str, output: Tensor, gradient: Tensor | None, received: Tensor, trained: Trainables
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients at the cut, checked before the server may step, and of what is trained; None: not used by it."""
        found = torch.autograd.grad(output, [received, *trained.parameters()], gradient, allow_unused=True)
        require_finite(found[0], f"gradient for {self._when(client)}")
        return found[0], self._checked(client, found[1:], trained)

    def _checked(self, client: str, found: Sequence[Tensor | None], trained: Trainables) -> list[Tensor | None]:
        what = f"on the server for {self._when(client)}"
        require_finite_gradients(trained.parameters(), found, what, trained.adapters.name_of)
        return list(found)

    def _loss(self, request: ClientRequest, message: Activations) -> tuple[Tensor, int]:
        """The mean loss of a message, checked, and the number of its labels."""
        with self._running(request.trained, message, request.received.requires_grad):
            hidden = self._hidden(message.client, request.received, request.mask)
            loss, count = request.task.loss(request.trained.logits(hidden, request.mask), request.labels)
        require_finite(loss.detach(), f"loss of {self._when(message.client)}")
        return loss, count

    def _apply(self, trained: Trainables) -> None:
        trained.step(self._rate)
        if self.usage is not None:
            self.usage.optimizer = sum(state_bytes(t.optimizer) for t in self._all_trained())

    def _hidden(self, client: str, received: Tensor, mask: Tensor) -> Tensor:
        inputs = received.to(self.base.dtype)
        half = self.base.server_half(self._cuts.get(client, self.cut))
        if self.real_tokens and self.usage is None:
            return run_real_tokens(half, mask, inputs)
        return run_half(half, mask, inputs_embeds=inputs)

    def _all_trained(self) -> list[Trainables]:
        return [*self.groups.values(), *self.copies.all()]

    def _trained_for(self, client: str) -> Trainables:
        """What is trained with a client's batches."""
        return self.copies.get(client) or self.groups[self._members[client]]
