"""The base class of clients, whether they hold the blocks below their cut or the whole model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atlas_cli.aggregation.client_gradients import apply_term, term_bytes
from atlas_cli.aggregation.contract import ClientTerm
from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.anchor import Anchor
from atlas_cli.federation.parties.control_variate import ControlVariate
from atlas_cli.federation.parties.measured_memory import SavedBytes, Usage, saved_if_measured
from atlas_cli.federation.parties.numerics import precision, seeded_dropout
from atlas_cli.federation.parties.optimizers import drop_state
from atlas_cli.federation.parties.prefix_cache import Prefix
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import StepLoss
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.checkpointing import checkpointed
from atlas_cli.models.halves.transfer import to_device
from atlas_cli.privacy.client_side import ClientProtection
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.step_codecs import StepCodecs

Inputs = Mapping[str, Tensor]


class Halves(NamedTuple):
    """The bases that run the blocks below ``cut`` and the blocks from there on."""

    lower: FrozenBase
    upper: FrozenBase
    cut: int


@dataclass(frozen=True)
class TrainedModel:
    """Everything trained that a prediction needs.

    Attributes:
        adapters: on either side of the cut.
        halves: the bases that run the blocks; None for that of ``model.dtype``, as a merged model is deployed on the
            server.
    """

    adapters: AdapterSet
    head: nn.Module
    halves: Halves | None = None

    def computed_by(self, halves: Halves) -> list[object]:
        """What may be of another package of all that computes its logits: parts of its head, adapters, families."""
        return [*self.head.modules(), *self.adapters.adapters.values(), halves.lower.family, halves.upper.family]


class Party(ABC):
    """A client, which trains its adapters and, in some modes, a head.

    Args:
        name: as in the config.
        base: the frozen base, which parties share; in a dtype of its own (``models.frozen.cast``) where the server's is
            another: activations are sent, and gradients come back, in the client's.
        cut: blocks below the cut have adapters of the client's own ``ranks``, by path.
        upper_ranks: of its adapters above the cut; only clients that hold the whole model have any.
        task, head: the head is None where the server has it.
        checkpointing: blocks keep their input only and run again in the backward.

    Attributes:
        half: the part of the base that it runs.
        adapters: below the cut; ``upper``: above it.
        usage: its measured memory; None where it is not measured.
        term: what the aggregation method adds to its gradients.
        anchor: what pulls it back to where its round began; None where nothing does.
        control: what corrects its gradients by those of others; None where nothing does.
        prefix: its lowest blocks, whose outputs the prefix cache keeps.
        privacy: its privacy mechanisms.
        alone: whether it never shares a pass with other clients.
        wire: the codecs of its messages.
    """

    alone = False
    usage: Usage | None = None
    term: ClientTerm | None = None
    anchor: Anchor | None = None
    control: ControlVariate | None = None
    prefix: Prefix | None = None

    def __init__(
        self,
        name: str,
        base: FrozenBase,
        cut: int,
        ranks: Mapping[str, int],
        setting: Setting,
        *,
        upper_ranks: Mapping[str, int] = MappingProxyType({}),
        task: BaseTask | None = None,
        head: nn.Module | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.name, self.base, self.cut, self.checkpointing = name, base, cut, checkpointing
        self.lora, self.training, self.seed, self.device = setting.lora, setting.training, setting.seed, setting.device
        self.half, self.task, self.head = self._half(), task, head
        self.adapters, self.upper = setting.adapters(base, ranks), setting.adapters(base, upper_ranks)
        self.privacy, self.wire = ClientProtection(), StepCodecs.none(base.hidden_size, base.dtype, base.dtype)
        self.reset_optimizer()

    @abstractmethod
    def _half(self) -> nn.Module:
        """The part of the base that it runs."""

    @property
    @abstractmethod
    def exchanged(self) -> AdapterSet:
        """The adapters that it sends and receives."""

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each of its adapters, by path."""
        return self.exchanged.ranks

    def trained(self) -> list[nn.Parameter]:
        """The trained parameters: adapters, and the head where it has one."""
        head = [p for p in self.head.parameters() if p.requires_grad] if self.head is not None else []
        return [*self.adapters.trained(), *head, *self.upper.trained()]

    @abstractmethod
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of its trained parameters."""

    @abstractmethod
    def reset_optimizer(self) -> None:
        """Start with fresh moments."""

    def forget_moments(self, parts: Collection[str]) -> None:
        """Drop the moments of ``parts`` ("A", "B", "head"): a delivery replaced what they described."""
        head = self.head.parameters() if self.head is not None and "head" in parts else ()
        replaced = [*self.exchanged.trained(parts), *head]
        for optimizer in self.optimizers():
            drop_state(optimizer, replaced)

    @abstractmethod
    def local_step(
        self, batch: Batch, round_number: int, step: int, rate_factor: float, server: SplitServer, ledger: Ledger
    ) -> StepLoss:
        """One local step; the server's own gradients are not accepted yet.

        Args:
            batch: may be empty, as a Poisson sample can be.
            rate_factor: of the learning-rate schedule.
            ledger: counts the messages.

        Raises:
            NonFiniteError: activations, loss or gradients are not finite; no optimizer has stepped.
        """

    @abstractmethod
    def model(self, server: SplitServer, part: str) -> TrainedModel:
        """The model that makes its predictions; ``part`` is the part of its task group whose head it shares."""

    def train_only(self, parts: Collection[str]) -> None:
        """Train the given parts of the adapters and freeze the others; moments are reset where that is a change."""
        if self.exchanged.adapters and set(parts) != set(self.exchanged.trained_parts):
            self.exchanged.train_only(parts)
            self.reset_optimizer()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside the block its adapters act on the base."""
        upper = self.upper.attached(self.base.model) if self.upper.adapters else nullcontext()
        with self.adapters.attached(self.base.model), upper:
            yield

    @contextmanager
    def forward_pass(self, round_number: int, step: int, weights: Iterable[Tensor]) -> Iterator[SavedBytes]:
        """The context of its forward in a local step; gives the bytes saved for backward, ``weights`` left out."""
        model, again = self.base.model, self.checkpointing
        weights = [*weights, *self.exchanged.held_frozen()]
        with (
            seeded_dropout(self.lora.dropout, self.seed, self.name, round_number, step, device=self.device),
            precision(self.device, self.training.autocast),
            self.attached(),
            self.privacy.recording(model, self.exchanged),
            checkpointed(self.half, self.base.family, self.ranks) if again else nullcontext(),
            saved_if_measured(self.usage, weights) as saved,
        ):
            yield saved

    def finish_gradients(self, round_number: int, step: int) -> None:
        """After a backward, or for an empty sample: DP-SGD's noise, then what the aggregation method's term, the anchor
        and the control variate add."""
        self.privacy.privatise(self.trained(), self.exchanged, (round_number, step))
        if self.term is not None:
            apply_term(self.term, self.exchanged)
        if self.anchor is not None:
            scales = {id(adapter.lora_B): adapter.scaling for adapter in self.exchanged.adapters.values()}
            self.anchor.pull(((p, scales.get(id(p), 1.0)) for p in self.trained()), step)
        if self.control is not None:
            self.control.correct(self.exchanged, step, f"of client {self.name}, round {round_number}, step {step}")

    def end_step(self, moments: int) -> None:
        """After the optimizers stepped; their state has so many bytes."""
        if self.usage is not None:
            self.usage.optimizer = moments + term_bytes(self.term) + sum(kept.bytes for kept in self._drift())
        for kept in self._drift():
            kept.end_step()

    def _drift(self) -> list[Anchor | ControlVariate]:
        return [each for each in (self.anchor, self.control) if each is not None]

    def take_mean(self, mean: Mapping[str, Tensor]) -> None:
        """Take the first local step of a round, by the mean of the gradients that clients sent of theirs."""
        assert self.control is not None
        self.control.take(self.exchanged, mean)
        self.finish_step()

    @abstractmethod
    def finish_step(self) -> None:
        """Step by the gradients of the local step that waited."""

    def output_embedding(self) -> list[Tensor]:
        """Frozen weights of a language-model head that are not part of the half; tied weights are part of it."""
        if self.head is None or self.task is None or not self.task.causal_only or self.base.lm_head is None:
            return []
        held = {p.data_ptr() for p in self.half.parameters()}
        return [p for p in self.base.lm_head.parameters() if p.data_ptr() not in held]

    def measure(self, tokens: Tensor | None = None) -> Usage:
        """Start measuring memory: tensors held now count at once, saved activations with each step.

        Args:
            tokens: whose rows of the embedding it holds, where its base has an embedding by the row.
        """
        head = self.head.parameters() if self.head is not None else ()
        held = [*self.exchanged.parameters(), *self.exchanged.held_frozen()]
        self.usage = Usage.held(self.half, held, [*head, *self.output_embedding()], tokens)
        return self.usage


def as_inputs(batch: Inputs, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Keyword arguments of the half, and the mask (B, T) int64; floats (B, D) become sequences of length 1."""
    if "inputs" in batch:
        embeddings = to_device(batch["inputs"], device)
        embeddings = embeddings.unsqueeze(1) if embeddings.dim() == 2 else embeddings
        mask = batch.get("attention_mask")
        if mask is None:
            mask = torch.ones(embeddings.shape[:2], dtype=torch.int64)
        mask = to_device(mask, device)
        return {"inputs_embeds": embeddings}, mask
    ids = to_device(batch["input_ids"], device)
    mask = to_device(batch["attention_mask"], device) if "attention_mask" in batch else torch.ones_like(ids)
    segments = batch.get("token_type_ids")
    return {"input_ids": ids, **({"token_type_ids": to_device(segments, device)} if segments is not None else {})}, mask
