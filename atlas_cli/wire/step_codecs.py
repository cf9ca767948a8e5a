"""The codecs of a client's messages of a local step, at whichever end of the wire they are used."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.errors import NonFiniteError
from atlas_cli.seeding import torch_generator
from atlas_cli.wire.codecs import codec_of
from atlas_cli.wire.codecs.contract import VALUES, BaseCodec, Layout, Part
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import Activations, HiddenStates
from atlas_cli.wire.text_memory import TextMemory, Texts

M = TypeVar("M", bound=HiddenStates)
UP = ("activations", "feature-gradients")
DOWN = ("gradients", "features")
CHANGE = "change_"  # before the name of a part that is of the change of texts
EXAMPLE_BYTES = 4  # of the number of a text


class StepCodecs:
    """Encodes and decodes the messages of one client; without a codec a message is sent as it is.

    Either end of the wire has one; where both are in one process, one serves both.

    Args:
        codecs: by kind of message.
        width: D.
        dtypes: of what is decoded, by kind of message.
        seed: of the run.
        feedback: the kinds of which what is lost is kept and added to the next.
        compact: whether small messages have a compact header.

    Attributes:
        memory: what is kept of each text.
    """

    def __init__(
        self,
        codecs: Mapping[str, BaseCodec],
        width: int,
        dtypes: Mapping[str, torch.dtype],
        seed: int,
        feedback: Collection[str] = (),
        compact: bool = False,
    ) -> None:
        self.codecs, self.width, self.dtypes, self.seed = dict(codecs), width, dict(dtypes), seed
        self.feedback, self.compact = frozenset(feedback), compact
        self._changes = {kind: change for kind, codec in codecs.items() if (change := codec.change()) is not None}
        self.memory = TextMemory()
        self._texts: Texts | None = None

    @classmethod
    def of(
        cls,
        wire: WireConfig,
        width: int,
        client: torch.dtype,
        server: torch.dtype,
        seed: int,
        kinds: Collection[str] = (*UP, *DOWN),
    ) -> StepCodecs:
        """The codecs of a config.

        Args:
            client: the type of hidden states at the cut; ``server``: of features.
            kinds: the messages that are sent.

        Raises:
            ConfigError: as ``codec_of``.
        """
        asked = {kind: found for kind, found in wire.by_kind().items() if kind in kinds}
        codecs = {kind: codec_of(codec, f"wire.{name}") for kind, (name, codec) in asked.items()}
        dtypes = {"activations": client, "gradients": client, "features": server, "feature-gradients": server}
        feedback = [kind for kind, (_, codec) in asked.items() if codec.feedback]
        return cls(codecs, width, dtypes, seed, feedback, wire.header == "compact")

    @classmethod
    def none(cls, width: int, client: torch.dtype, server: torch.dtype) -> StepCodecs:
        """Of a client whose messages are sent as they are."""
        return cls.of(WireConfig(), width, client, server, 0)

    @property
    def numbered(self) -> bool:
        """Whether something is kept of each text, so that the server must know which is which."""
        return bool(self._changes or self.feedback)

    def sends_changes(self, kind: str) -> bool:
        """Whether a message of this kind can be decoded only by who received those before it."""
        return kind in self._changes

    def number(self, message: Activations, numbers: Sequence[int] | None) -> Activations:
        """The message with the numbers of its texts, where they are needed and known."""
        if not self.numbered or numbers is None:
            return message
        return replace(message, examples=torch.tensor(numbers, dtype=torch.int32))

    def encode(self, message: M, now: tuple[int, int]) -> M:
        """The message as it crosses the wire.

        Args:
            now: round and step, by which codecs draw.

        Raises:
            NonFiniteError: it holds a number that is not finite, which a codec might hide, or decodes to one.
        """
        self._read_texts(message)
        kind, values = message.kind, getattr(message, message.states)
        codec = self.codecs.get(kind)
        if codec is None:
            return replace(message, compact=True) if self.compact else message
        largest, where = _largest(values), f"client {message.client}, round {now[0]}, step {now[1]}"
        if not math.isfinite(largest):
            raise NonFiniteError(f"{kind} of {where} are not finite before wire.{kind} encodes them")
        generator = torch_generator(self.seed, f"wire-{kind}", message.client, *now)
        texts, change = self._texts, self._changes.get(kind)
        if texts is not None and change is not None:
            seen = self._seen(f"sent/{kind}", texts)
            known, real = self.memory.read(f"sent/{kind}", texts, self.width), texts.mask.unsqueeze(-1)
            values = values * real  # of padding nothing is kept, and nothing counts as lost
            parts = codec.encode(values[~seen], generator)
            changed = change.encode((values.float() - known)[seen], generator)
            parts |= {f"{CHANGE}{name}": part for name, part in changed.items()}
            decoded = self._decoded(f"sent/{kind}", codec, parts, texts)
        elif texts is not None and kind in self.feedback:
            wanted = values.float() + self.memory.read(f"lost/{kind}", texts, self.width)
            parts = codec.encode(wanted.to(values.dtype), generator)
            decoded = codec.decode(parts, self.width).to(self.dtypes[kind])  # lost, too, is what that type rounds off
            self.memory.keep(f"lost/{kind}", texts, wanted - decoded.float())
        else:
            parts = codec.encode(values, generator)
            decoded = codec.decode(parts, self.width)
        lost = Lost.of(values, decoded, largest)
        if not (math.isfinite(lost.after) or math.isfinite(_largest(decoded))):
            raise NonFiniteError(
                f"{kind} of {where} are not finite as wire.{kind} decodes them; the largest was {largest:.3g} before"
            )
        return self._with(message, parts.pop(VALUES), parts, lost)

    def decode(self, message: M) -> M:
        """What the other side makes of a message that crossed the wire."""
        self._read_texts(message)
        codec = self.codecs.get(message.kind)
        if codec is None:
            return message
        parts = {VALUES: getattr(message, message.states), **message.parts}
        if self._texts is not None and message.kind in self._changes:
            values = self._decoded(f"received/{message.kind}", codec, parts, self._texts)
        else:
            values = codec.decode(parts, self.width)
        return self._with(message, values.to(self.dtypes[message.kind]), {})

    def _decoded(self, place: str, codec: BaseCodec, parts: Mapping[str, Tensor], texts: Texts) -> Tensor:
        """What an end makes of first messages and of changes; it keeps that for the next ones."""
        change = self._changes[place.partition("/")[2]]
        seen, values = self._seen(place, texts), self.memory.read(place, texts, self.width)
        first = {name: part for name, part in parts.items() if not name.startswith(CHANGE)}
        changed = {name.removeprefix(CHANGE): part for name, part in parts.items() if name.startswith(CHANGE)}
        values[~seen] = codec.decode(first, self.width).float()
        values[seen] += change.decode(changed, self.width).float()
        self.memory.keep(place, texts, values)
        return values

    def _seen(self, place: str, texts: Texts) -> Tensor:
        return torch.tensor(self.memory.known(place, texts.numbers), dtype=torch.bool, device=texts.mask.device)

    def _read_texts(self, message: HiddenStates) -> None:
        """A step's other messages are of the texts of its activations."""
        if isinstance(message, Activations):
            numbers = message.examples if self.numbered else None
            self._texts = Texts(numbers.tolist(), message.mask) if numbers is not None else None

    def layout(self, kind: str, seen: int, new: int, tokens: int) -> Layout:
        """The parts of the hidden states of a message (B, T, D), in which so many texts are new to a codec of changes.

        Without such a codec it does not matter which are.
        """
        shape, dtype, codec = (seen + new, tokens, self.width), self.dtypes[kind], self.codecs.get(kind)
        if codec is None:
            return {VALUES: Part(shape, dtype)}
        if (change := self._changes.get(kind)) is None:
            return codec.layout(shape, dtype)
        changed = change.layout((seen, *shape[1:]), torch.float32)
        first = codec.layout((new, *shape[1:]), dtype)
        return {**first, **{f"{CHANGE}{name}": part for name, part in changed.items()}}

    def payload_bytes(self, kind: str, batch: int, tokens: int, numbers: Sequence[int] | None = None) -> int:
        """Bytes of these parts; of texts that were all sent before, where their ``numbers`` are not given.

        With ``numbers``: by what the server keeps before the message.
        """
        place = f"{'received' if kind in UP else 'sent'}/{kind}"
        seen = batch if numbers is None else sum(self.memory.known(place, numbers))
        return sum(part.bytes for part in self.layout(kind, seen, batch - seen, tokens).values())

    def flops(self, kind: str) -> tuple[float, float]:
        """FLOPs of encoding and of decoding a number, of texts that were sent before; 0 without a codec."""
        codec = self._changes.get(kind, self.codecs.get(kind))
        return codec.flops(self.width) if codec is not None else (0.0, 0.0)

    def blank(self, message: M) -> M:
        """A message of the size that ``message`` has when it is encoded, of texts that were all sent before; on the
        meta device."""
        batch, tokens, _ = getattr(message, message.states).shape
        parts = {
            name: torch.empty(part.shape, dtype=part.dtype, device="meta")
            for name, part in self.layout(message.kind, batch, 0, tokens).items()
        }
        sent = self._with(message, parts.pop(VALUES), parts)
        if isinstance(sent, Activations) and self.numbered:
            return replace(sent, examples=torch.empty(batch, dtype=torch.int32, device="meta"))
        return sent

    def state_dict(self, owner: Literal["client", "server"] | None = None) -> dict[str, Tensor]:
        """What an end keeps of texts, or both."""
        return self.memory.state_dict(None if owner is None else _places(owner))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of both ends.

        Raises:
            StateError: it is of no codec of this client.
        """
        places = [place for place in (*_places("client"), *_places("server")) if self._keeps(place)]
        self.memory.load_state_dict(state, places, self.width)

    def kept_bytes(self, owner: Literal["client", "server"]) -> int:
        """Bytes of what an end keeps of texts now."""
        return self.memory.bytes(_places(owner))

    def kept_token_bytes(self, owner: Literal["client", "server"]) -> int:
        """Bytes that an end keeps for each real token of a text whose messages have crossed the wire."""
        return 4 * self.width * sum(map(self._keeps, _places(owner)))

    def _with(self, message: M, states: Tensor, parts: Mapping[str, Tensor], lost: Lost | None = None) -> M:
        changed = {message.states: states, "parts": parts, "lost": lost, "compact": self.compact}
        return replace(message, **changed)  # type: ignore[arg-type]

    def _keeps(self, place: str) -> bool:
        what, _, kind = place.partition("/")
        return kind in (self.feedback if what == "lost" else self._changes)


def _places(owner: Literal["client", "server"]) -> list[str]:
    """Where an end keeps something: of what it sends, and of what it receives."""
    sends, gets = (UP, DOWN) if owner == "client" else (DOWN, UP)
    return [f"{what}/{kind}" for what in ("sent", "lost") for kind in sends] + [f"received/{kind}" for kind in gets]


def _largest(values: Tensor) -> float:
    """The largest magnitude; nan where a number is."""
    return float(torch.maximum(values.amax(), -values.amin())) if values.numel() else 0.0
