"""How a client's adapters and head cross the wire at the ends of rounds, where a codec sends them as changes.

Up: the change from what the client was delivered. Down: the change from what it holds, which is what it was delivered
last. Both ends know that to the bit, so both go on from the same decoded values, and what a delivery lost is part of
the next one by itself. What an upload lost is kept at the client with ``feedback``, and added to its next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import BaseMethod
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.seeding import torch_generator
from atlas_cli.storage.state_dict import require_tensor
from atlas_cli.wire.messages import EXTRA, Adapters, NamedTensors
from atlas_cli.wire.parameter_codec import RANKS, ParameterCodec, Shapes, Tensors

LOST = "adapters/"  # before the name of a tensor in a client's state


class Sent(NamedTuple):
    """What crosses the wire at one end of a round, and its closed forms.

    Attributes:
        form, head_form: bytes of the tensors of each message.
        values: what the receiver has of it, by name.
    """

    adapters: Adapters
    form: int
    head: NamedTensors
    head_form: int
    values: dict[str, Tensor]


class Coding:
    """The codecs of a client's adapters and head; without one, a direction is sent as it is.

    Args:
        up, down: the codecs of uploads and of deliveries.
        method: by which uploads are merged.
        feedback: whether what the codec lost of an upload is added to the next one.
        seed: of the run.

    Attributes:
        up, down, seed: these.
        lost: with feedback, what the codec lost of each tensor that was sent up.
    """

    def __init__(
        self, up: ParameterCodec | None, down: ParameterCodec | None, method: BaseMethod, feedback: bool, seed: int
    ) -> None:
        self.up, self.down, self._feedback, self.seed = up, down, feedback, seed
        self._ranks = method.PRUNES  # are sent, too, as the server does not know them
        self._reads_began = down is not None and (method.TAKES_LATE == "products" or method.CHANGES_BASE)
        self._keeps_unsent = not method.DRAWS
        self.lost: dict[str, Tensor] = {}
        self._began: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, wire: WireConfig, method: BaseMethod, seed: int) -> Self | None:
        """That of a client's config; None where all is sent as it is.

        Raises:
            ConfigError: as ``wire.codecs.codec_of``.
        """
        up, down = (ParameterCodec.of(wire, name) for name in ("adapters", "deliveries"))
        if up is None and down is None:
            return None
        return cls(up, down, method, wire.adapters is not None and wire.adapters.feedback, seed)

    def begin(self, held: Tensors) -> None:
        """A round begins, with what the client was delivered."""
        self._began = {name: tensor.detach().clone() for name, tensor in held.items()}

    @property
    def began_bytes(self) -> int:
        """Bytes of the copy of what the client was delivered, which it keeps in a round."""
        return sum(tensor.nbytes for tensor in (self._began or {}).values())

    @property
    def lost_bytes(self) -> int:
        """Bytes of what it keeps of what its uploads lost."""
        return sum(tensor.nbytes for tensor in self.lost.values())

    def began(self, state: Tensors) -> dict[str, Tensor] | None:
        """The client's adapters as they were delivered, of the names and shapes of ``state``; None where they are the
        group's, or a method reads no changes from them (``TAKES_LATE``, ``CHANGES_BASE``)."""
        return {name: self._known(name, tensor) for name, tensor in state.items()} if self._reads_began else None

    def forget(self) -> None:
        """Keep nothing: the client is sent all of its adapters, or its state is in a store."""
        self.lost, self._began = {}, None

    def upload(self, sent: Sent, offered: Tensors, shapes: Shapes, number: int) -> Sent:
        """What a client sends up, and what the server makes of it.

        The server adds decoded changes to what it would deliver now, as if nothing had been lost of the last delivery;
        or to what the client was delivered, where the method reads changes from that.

        Args:
            sent: as it is without a codec.
            offered: the group's adapter at the client's ranks, and the group's head.
            shapes: of the adapters that are sent.
            number: of the merge.
        """
        named, head = sent.adapters.named, sent.head.named
        own = {**named, **head}
        began = {name: self._known(name, tensor) for name, tensor in own.items()}
        changes = {name: tensor - began[name] for name, tensor in own.items()}
        onto = {name: began[name] for name in (own if self.down is None else named if self._reads_began else ())}
        onto |= {name: offered[name].to(began[name]) for name in own if name not in onto}
        rest = {name: tensor for name, tensor in sent.values.items() if name.startswith(EXTRA)}
        if self.up is None:
            moved = {
                name: tensor if onto[name] is began[name] else onto[name] + changes[name]
                for name, tensor in own.items()
            }
            return sent._replace(values={**moved, **rest})
        finite = all(bool(change.isfinite().all()) for change in changes.values())
        wanted = {name: self._with_lost(name, change) for name, change in changes.items()}
        if not finite:  # the server is to see it: what a codec makes of it could hide it
            wanted = {name: torch.zeros_like(change) for name, change in changes.items()}
        done, decoded = self._encoded(self.up, sent, wanted, shapes, f"wire-adapters/{sent.adapters.client}", number)
        if self._ranks:
            counts = torch.tensor([len(named[name]) for name in named if name.endswith("lora_A")], dtype=torch.int32)
            done = done._replace(
                adapters=replace(done.adapters, named={**done.adapters.named, RANKS: counts}),
                form=done.form + counts.nbytes,
            )
        if self._feedback and finite:
            self.lost = {**self.lost, **{name: wanted[name] - decoded[name] for name in wanted}}
        came = decoded if finite else changes
        return done._replace(values={**{name: onto[name] + change for name, change in came.items()}, **rest})

    def deliver(self, sent: Sent, held: Tensors | None, shapes: Shapes, of: tuple[str, int]) -> Sent:
        """What the server sends a client, and what the client makes of it.

        Args:
            sent: as it is without a codec.
            held: what the client has now, of which it keeps what is not sent; None before its first delivery.
            shapes: of the adapters that are sent.
            of: the group, and its version.
        """
        if held is None:
            self.forget()
        before, self._began = self._began or held, None
        if self.down is None or held is None or before is None:
            return sent
        names = [*sent.adapters.named, *sent.head.named]
        known = {name: _like(before[name], sent.values[name]) for name in names}
        changes = {name: sent.values[name].to(known[name]) - known[name] for name in names}
        done, decoded = self._encoded(self.down, sent, changes, shapes, f"wire-deliveries/{of[0]}", of[1])
        unsent = held if self._keeps_unsent else sent.values
        kept = {name: unsent[name].detach().clone() for name in sent.values if name not in known}
        return done._replace(values={**kept, **{name: known[name] + decoded[name] for name in names}})

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept of uploads."""
        return {f"{LOST}{name}": tensor for name, tensor in self.lost.items()}

    def load_state_dict(self, state: Tensors, like_it: Tensors) -> None:
        """Go on from a state.

        Args:
            like_it: what the client holds, which has the names and shapes of what is kept.

        Raises:
            StateError: of no tensor that is sent with feedback, or of another shape or type.
        """
        found: dict[str, Tensor] = {}
        for key, value in state.items():
            name = key.removeprefix(LOST)
            require_tensor(self._feedback and name in like_it, f"wire/{key}", "is of no codec")
            fits = value.shape == like_it[name].shape and value.dtype == torch.float32
            require_tensor(fits, f"wire/{key}", f"is {value.dtype} of {tuple(value.shape)}")
            found[name] = value.to(like_it[name].device, copy=True)
        self.lost = found

    def _known(self, name: str, now: Tensor) -> Tensor:
        """What the client was delivered of a tensor; its first rows and columns, where ranks were lowered since."""
        assert self._began is not None, "its round has begun"
        return _like(self._began[name], now)

    def _with_lost(self, name: str, change: Tensor) -> Tensor:
        return change + _like(self.lost[name], change) if name in self.lost else change

    def _encoded(
        self, codec: ParameterCodec, sent: Sent, changes: Tensors, shapes: Shapes, purpose: str, number: int
    ) -> tuple[Sent, dict[str, Tensor]]:
        """The messages of some changes, and what is decoded of them."""
        generator = torch_generator(self.seed, purpose, number)
        extra = sent.form - 4 * sum(torch.Size(shape).numel() for shape in shapes.values())
        done, decoded = sent._replace(form=extra), dict[str, Tensor]()
        if names := list(sent.adapters.named):
            of_adapters = codec.encode({name: changes[name] for name in names}, generator)
            message = replace(sent.adapters, named=of_adapters.parts, lost=of_adapters.lost)
            done, decoded = (
                done._replace(adapters=message, form=extra + codec.payload_bytes(shapes, of_adapters.changed)),
                of_adapters.decoded,
            )
        if names := list(sent.head.named):
            of_head = codec.encode({name: changes[name] for name in names}, generator)
            heads = {name: tuple(changes[name].shape) for name in names}
            message_of_head = replace(sent.head, named=of_head.parts, lost=of_head.lost)
            done = done._replace(head=message_of_head, head_form=codec.payload_bytes(heads, of_head.changed))
            decoded = {**decoded, **of_head.decoded}
        return done, decoded


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """The first rows and columns of a tensor, as many as ``other`` has."""
    return tensor[tuple(slice(size) for size in other.shape)]


def lost_of(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a client's codecs keep: of texts, and of uploads."""
    uploads = {name: tensor for name, tensor in state.items() if name.startswith(LOST)}
    return {name: tensor for name, tensor in state.items() if name not in uploads}, uploads
