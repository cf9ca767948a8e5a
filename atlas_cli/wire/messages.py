"""The messages that cross the wire: one class for each kind between a client and the server.

A message's fields are its tensors; its size is the length of their safetensors serialisation, header included, and the
static ``closed_form`` of its class gives the bytes of the tensors from shapes alone. Shapes: B batch, T tokens (padded
to the longest of the batch), D hidden size, r rank; hidden states have the dtype of the half that computed them.

| kind              | direction | class            | what is sent |
|---|---|---|---|
| base-weights      | down      | BaseWeights      | the frozen client half, once, at set-up |
| adapters          | up        | AdapterUpdate    | A and B of every adapted layer, as the method says |
| adapters          | down      | Delivery         | the same |
| base-change       | down      | BaseRows         | rows added to the base (``flora``, ``fedex``) |
| base-total        | down      | BaseTotal        | all such rows so far, for a client that missed too many |
| activations       | up        | Activations      | hidden states, mask, labels unless ``labels: client`` |
| rows              | up        | Rows             | which texts a batch has, of those sent (``learns: frozen``) |
| gradients         | down      | Gradients        | the gradient at the cut of the client's own mean loss |
| features          | down      | Features         | the server half's output (``labels: client``) |
| feature-gradients | up        | FeatureGradients | their gradient, and the count that weighs it (``labels: client``) |
| fingerprint       | up        | Fingerprint      | a sketch of the client's gradients, for clustering |
| control-variates  | up        | FirstGradients   | gradients of the first local step (``drift: scaffold``) |
| control-variates  | down      | MeanGradients    | their mean at the client's ranks |
| head              | up        | HeadUpdate       | the head's parameters (``labels: client``, ``mode: federated``) |
| head              | down      | HeadDelivery     | the same |
| tokens            | down      | Tokens           | the tokens that the server chose, where text is generated |
| beams             | up        | BeamOrder        | which beams go on, where a client chooses (``labels: client``) |
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from safetensors.torch import save
from torch import Tensor

from atlas_cli.wire.lost import Lost
from atlas_cli.wire.serialized import compact_size, serialized_size, to_bytes

Direction = Literal["up", "down"]

_NO_TENSORS = ("client", "compact", "parts", "lost")  # fields of messages
TYPES: dict[tuple[str, Direction], type[Message]] = {}  # by kind and direction


@dataclass(frozen=True, eq=False)
class Message:
    """One message between a client and the server; its tensors are detached from any graph.

    Attributes:
        client: the client at one end; the server is at the other.
        kind: as in records; ``direction``: "up" to the server, "down" to the client.
        compact: whether its header is that of ``wire.serialized`` where safetensors' would be a large part of it.
    """

    kind: ClassVar[str]
    direction: ClassVar[Direction]

    client: str
    compact: bool = field(default=False, kw_only=True)

    def __init_subclass__(cls, kind: str | None = None, direction: Direction | None = None) -> None:
        """A class of messages with a kind and a direction is one of ``TYPES``."""
        if kind is not None:
            cls.kind = kind
        if direction is not None:
            cls.direction = direction
            TYPES[cls.kind, direction] = cls

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is sent, by name; a field that is None is not sent."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NO_TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def of(cls, client: str, tensors: Mapping[str, Tensor]) -> Self:
        """The message that is sent as ``tensors``.

        Raises:
            TypeError: an unknown tensor, or a required one is missing.
        """
        return cls(client, **dict[str, Any](tensors))

    @cached_property
    def payload_bytes(self) -> int:
        """Bytes of the tensors alone."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @cached_property
    def bytes(self) -> int:
        """Bytes as serialised."""
        return (compact_size if self.compact else serialized_size)(self.tensors)

    def serialized(self) -> builtins.bytes:
        """These bytes, as they cross the wire."""
        if self.compact:
            return to_bytes(self.tensors)
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()})

    def with_header(self, compact: bool) -> Self:
        """The same with a compact header, if it is to have one."""
        return replace(self, compact=True) if compact else self

    def to(self, client: str) -> Self:
        """The same message for another client; its size is not measured again."""
        other = replace(self, client=client)
        other.__dict__.update(bytes=self.bytes, payload_bytes=self.payload_bytes)
        return other


@dataclass(frozen=True, eq=False, kw_only=True)
class HiddenStates(Message):
    """A message of a local step: one (B, T, D) tensor of floats, which a codec of ``wire`` sends in fewer bytes.

    That tensor is the first field of its class; encoded, it is the codec's part ``values``.

    Attributes:
        parts: the other tensors of its codec by name, sent under the name of the hidden states, ``_`` and their own.
        lost: what its codec lost, which the sender knows; it is not sent. None where there is no codec.
    """

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    lost: Lost | None = None

    @classmethod
    def _own(cls) -> list[str]:
        return [each.name for each in fields(cls) if each.name not in _NO_TENSORS]

    @property
    def states(self) -> str:
        """The name of the hidden states."""
        return self._own()[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is sent, by name; a field that is None is not sent."""
        named = {name: tensor for name in self._own() if (tensor := getattr(self, name)) is not None}
        return {**named, **{f"{self.states}_{name}": tensor for name, tensor in self.parts.items()}}

    @classmethod
    def of(cls, client: str, tensors: Mapping[str, Tensor], lost: Lost | None = None, compact: bool = False) -> Self:
        """The message that is sent as ``tensors``.

        Raises:
            TypeError: an unknown tensor, or a required one is missing.
        """
        own = cls._own()
        prefix = f"{own[0]}_"
        named = {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(prefix)}
        parts = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in named}
        return cls(client, **named, parts=parts, lost=lost, compact=compact)


@dataclass(frozen=True, eq=False)
class Activations(HiddenStates, kind="activations", direction="up"):
    """The output of a client's blocks for a batch.

    Attributes:
        activations: (B, T, D); of a frozen client (1, N, D), the tokens of its texts one after another.
        attention_mask: (B, T) bool, False on padding; None: nothing is padding.
        labels: as the task has them, (1, N) where texts follow one another and each token has one; None if they stay on
            the client.
        examples: (B,) int32, the numbers of the texts among the client's, where a codec keeps something of each.
        lengths: (B,) int64, the tokens of each text, where texts follow one another.
    """

    activations: Tensor
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    examples: Tensor | None = None
    lengths: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, False on padding."""
        if self.attention_mask is not None:
            return self.attention_mask
        texts, tokens = self.activations.shape[:2]
        if self.examples is not None:  # a codec of changes sends some of the texts beside the activations
            texts = len(self.examples)
        return torch.ones(texts, tokens, dtype=torch.bool, device=self.activations.device)

    @staticmethod
    def closed_form(batch: int, tokens: int, token_bytes: int, label_bytes: int, masked: bool = True) -> int:
        """B T tokens of so many bytes, a byte a mask position where there is a mask, and the labels."""
        return batch * tokens * (token_bytes + masked) + label_bytes

    @staticmethod
    def closed_form_of_texts(lengths: Sequence[int], token_bytes: int, label_bytes: int) -> int:
        """Their tokens of so many bytes, the labels, and 8 bytes a text for its length."""
        return sum(lengths) * token_bytes + label_bytes + 8 * len(lengths)


@dataclass(frozen=True, eq=False)
class Rows(Message, kind="rows", direction="up"):
    """A batch of a frozen client: (B,) int64, the place of each text among those that it has sent."""

    rows: Tensor

    @staticmethod
    def closed_form(batch: int) -> int:
        """8 bytes a text."""
        return 8 * batch


@dataclass(frozen=True, eq=False)
class Gradients(HiddenStates, kind="gradients", direction="down"):
    """The gradient of a client's own mean loss with respect to its activations: (B, T, D), of their dtype."""

    gradients: Tensor

    @staticmethod
    def closed_form(batch: int, tokens: int, token_bytes: int) -> int:
        """B T tokens of so many bytes."""
        return batch * tokens * token_bytes


@dataclass(frozen=True, eq=False)
class Features(HiddenStates, kind="features", direction="down"):
    """U-shaped split: the output of the server's blocks for a batch, (B, T, D), for the client's own head."""

    features: Tensor

    closed_form = staticmethod(Gradients.closed_form)


@dataclass(frozen=True, eq=False)
class FeatureGradients(HiddenStates, kind="feature-gradients", direction="up"):
    """U-shaped split: the gradient of a client's own mean loss with respect to the features.

    Attributes:
        gradients: (B, T, D).
        count: () int64, the number of labels that the loss averages.
    """

    gradients: Tensor
    count: Tensor

    @staticmethod
    def closed_form(batch: int, tokens: int, token_bytes: int) -> int:
        """B T tokens of so many bytes, and the count."""
        return batch * tokens * token_bytes + 8


@dataclass(frozen=True, eq=False)
class Fingerprint(Message, kind="fingerprint", direction="up"):
    """A sketch of a client's gradients, (size,) float32, for clustering."""

    fingerprint: Tensor

    @staticmethod
    def closed_form(size: int) -> int:
        """4 bytes a number."""
        return 4 * size


@dataclass(frozen=True, eq=False)
class NamedTensors(Message):
    """A message whose tensors have names of their own, such as those of layers; encoded, those of a codec's parts."""

    named: Mapping[str, Tensor]
    lost: Lost | None = field(default=None, kw_only=True)  # as in HiddenStates

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is sent, by name."""
        return dict(self.named)

    @classmethod
    def of(cls, client: str, tensors: Mapping[str, Tensor]) -> Self:
        """The message that is sent as ``tensors``."""
        return cls(client, tensors)


class BaseWeights(NamedTensors, kind="base-weights", direction="down"):
    """The frozen weights that a client holds, by parameter, sent once, at set-up."""


class BaseRows(NamedTensors, kind="base-change", direction="down"):
    """Rows that merges added to the base since a client's last delivery.

    By layer ``<path>.base_A`` (n, d_in) and ``<path>.base_B`` (d_out, n) float32.
    """


class BaseTotal(NamedTensors, kind="base-total", direction="down"):
    """The sum of all changes of the base so far, which replaces the client's; named as in ``BaseRows``."""


class HeadUpdate(NamedTensors, kind="head", direction="up"):
    """The trained parameters of a client's head, ``head.<name>``, as the client holds them."""


class HeadDelivery(NamedTensors, kind="head", direction="down"):
    """The trained parameters of a task group's head, ``head.<name>``."""


class FirstGradients(NamedTensors, kind="control-variates", direction="up"):
    """The gradients of a client's adapters in the first local step of a round, named as adapters."""


class MeanGradients(NamedTensors, kind="control-variates", direction="down"):
    """Their mean over the clients of a group that hold a component, at the client's ranks."""


EXTRA = "extra."  # before the name of a tensor that an aggregation method sends besides adapters


@dataclass(frozen=True, eq=False)
class Adapters(NamedTensors, kind="adapters"):
    """Adapters by layer: ``<path>.lora_A`` (r, d_in) and ``<path>.lora_B`` (d_out, r) float32, as the method says.

    Attributes:
        named: the adapters.
        extra: further tensors of the aggregation method by name, such as control variates.
    """

    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is sent, by name."""
        return {**self.named, **{f"{EXTRA}{name}": tensor for name, tensor in self.extra.items()}}

    @classmethod
    def of(cls, client: str, tensors: Mapping[str, Tensor]) -> Self:
        """The message that is sent as ``tensors``."""
        extra = {name.removeprefix(EXTRA): tensor for name, tensor in tensors.items() if name.startswith(EXTRA)}
        return cls(client, {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)}, extra)

    @staticmethod
    def closed_form(
        ranks: Mapping[str, int],
        features: Mapping[str, tuple[int, int]],
        parts: Collection[str] = ("A", "B"),
        extra_elements: int = 0,
    ) -> int:
        """4 bytes for each of r d_in elements a layer for A, r d_out for B, and what the method sends besides."""
        widths = {p: ("A" in parts) * d_in + ("B" in parts) * d_out for p, (d_in, d_out) in features.items()}
        return 4 * (sum(rank * widths[path] for path, rank in ranks.items()) + extra_elements)


class AdapterUpdate(Adapters, direction="up"):
    """The adapters that a client trained."""


class Delivery(Adapters, direction="down"):
    """The adapters of a client's group, at the client's ranks."""


@dataclass(frozen=True, eq=False)
class Tokens(Message, kind="tokens", direction="down"):
    """The next token of each text that is generated, as the server chose it.

    Attributes:
        tokens: (B,) int64.
        beams: (B,) int64, the rows that go on, where beams are searched.
    """

    tokens: Tensor
    beams: Tensor | None = None

    @staticmethod
    def closed_form(rows: int, beams: bool = False) -> int:
        """8 bytes a token, and as many a beam."""
        return 8 * rows * (1 + beams)


@dataclass(frozen=True, eq=False)
class BeamOrder(Message, kind="beams", direction="up"):
    """The rows that go on where a client searches beams, (B,) int64: the server's keys and values follow them."""

    beams: Tensor

    @staticmethod
    def closed_form(rows: int) -> int:
        """8 bytes a beam."""
        return 8 * rows


STEP = (Activations, Rows, Gradients, Features, FeatureGradients)  # of a local step
