"""What may be chosen: settings that all clients share, and settings of each kind of client.

Kinds of clients may differ in their cuts, unless the config does not allow it. Cuts, checkpointing and embeddings by
the row change no number that a client computes, and are searched unless told otherwise. Ranks, number types, batches
and codecs may change what is learned, which no prediction of memory, time and bytes can tell: they stay as the
file has them unless the user lists others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

from atlas_cli.config.learning_checks import learning_problems
from atlas_cli.config.schema.experiment import ClientConfig, ExperimentConfig
from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.wire_checks import sends_alone

MOST_CUTS = 16  # of a deep model, unless cuts are listed

FREE: Mapping[str, Sequence[Any]] = {"embedding": ("table", "rows"), "checkpointing": (False, True)}

CUT = "split_layer"
KINDS = ("activations", "gradients")  # of messages, whose codec may be chosen
Option = tuple[tuple[str, Any], ...]  # keys of clients that are set, with their values


class Shared(NamedTuple):
    """What all clients share: the split layers to choose from, the examples of a batch, and the codec of activations
    and gradients; None: as the file has them."""

    cuts: tuple[int, ...]
    batch: int
    codec: str | None


@dataclass(frozen=True)
class Ranges:
    """The values that may be chosen; those of a key that is not listed stay as the file has them.

    Attributes:
        cuts: split layers; empty: all of them, of a deep model ``MOST_CUTS`` that are spread over it.
        batches: of ``training.batch_size``; ``codecs``: of ``wire.activations`` and ``wire.gradients``.
        one_cut: whether all clients have the same split layer.
        clients: by key of a client (``rank``, ``learns``, ``dtype``, ``quantization``, ``embedding``,
            ``checkpointing``). A further key of clients is searched by naming it here, if predictions depend on it.
    """

    cuts: Sequence[int] = ()
    batches: Sequence[int] = ()
    codecs: Sequence[str] = ()
    one_cut: bool = False
    clients: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def options(self, shared: Shared) -> list[Option]:
        """The settings of a kind of client, the shallowest cut first."""
        chosen = {CUT: shared.cuts, **self.clients}
        return [tuple(zip(chosen, values, strict=True)) for values in product(*chosen.values())]

    @property
    def all_free(self) -> Ranges:
        """With both values of the keys that change no number, where they are not listed."""
        return replace(self, clients={**FREE, **self.clients})

    def shared(self, config: ExperimentConfig, cuts: Sequence[int]) -> Iterator[Shared]:
        """The settings of all clients, where the split layers are among ``cuts``."""
        together = [(cut,) for cut in cuts] if self.one_cut else [tuple(cuts)]
        for values in product(together, self.batches or (config.training.batch_size,), self.codecs_of(config)):
            yield Shared(*values)

    def codecs_of(self, config: ExperimentConfig) -> Sequence[str | None]:
        """The codecs of activations and gradients, the file's own too where no name says what it has."""
        own = codec_of_both(config)
        return (self.codecs if own else (None, *self.codecs)) or (own,)

    def cuts_of(self, config: ExperimentConfig, n_layers: int) -> list[int]:
        """The split layers in order.

        Raises:
            ConfigError: one is listed that the model, or adapters on the server, do not allow.
        """
        first, last = _adapted_alone(config, self.clients), n_layers - (config.server.rank > 0)
        if self.cuts:
            wrong = next((cut for cut in self.cuts if not first <= cut <= last), None)
            if wrong is not None:
                raise ConfigError(f"{wrong} is not a possible split layer here; {first} to {last} are", key="--cuts")
            return sorted(set(self.cuts))
        every = max(1, -(-(last - first + 1) // MOST_CUTS))
        return sorted({*range(first, last + 1, every), last})


def applied(config: ExperimentConfig, name: str, option: Option) -> dict[str, Any]:
    """The settings of an option as an entry of the config gets them: who is frozen has no rank, and who has no backward
    no checkpointing."""
    client, chosen = config.clients[name], dict(option)
    learns = chosen.get("learns", client.learns)
    if learns in ("zeroth-order", "frozen") and (client.checkpointing or "checkpointing" in chosen):
        chosen["checkpointing"] = False
    if learns == "frozen":
        chosen.pop("rank", None)
        chosen |= {} if client.rank is None else {"rank": 0}
    return chosen


def consistent(config: ExperimentConfig, name: str, option: Option, codec: str | None = None) -> bool:
    """Whether the settings of an option, and a codec, do not contradict each other in an entry of the config."""
    client = config.clients[name].model_copy(update=applied(config, name, option))
    if client.learns == "frozen" and not sends_alone(client.wire.over(coded(config, codec))):
        return False
    alone = config.model_copy(update={"clients": {name: client}})
    return not any(problem.path[0] == "clients" for problem in learning_problems(alone))


def _adapted_alone(config: ExperimentConfig, searched: Mapping[str, Sequence[Any]]) -> int:
    """The shallowest cut that ranks by layer in the file allow."""
    ranks = [config.lora.rank if client.rank is None else client.rank for client in config.clients.values()]
    if "rank" in searched:
        return 1
    return max((max(rank) + 1 for rank in ranks if isinstance(rank, dict)), default=1)


def changes(config: ExperimentConfig, name: str, option: Option, ranges: Ranges) -> int:
    """How many places along the listed values a client's settings that may change what is learned are from the file's.

    Numbers are in their order; other values are as far away as their place in the list says.
    """
    client, chosen = config.clients[name], applied(config, name, option)
    return sum(
        _distance(_own(config, client, key), chosen[key], ranges.clients[key])
        for key in ("rank", "learns", "dtype", "quantization")
        if key in chosen and key in ranges.clients and chosen[key] != 0
    )


def shared_changes(config: ExperimentConfig, shared: Shared, ranges: Ranges) -> int:
    """The same for the settings that all clients share."""
    away = _distance(config.training.batch_size, shared.batch, ranges.batches)
    return away + _distance(codec_of_both(config), shared.codec, ranges.codecs)


def codec_of_both(config: ExperimentConfig) -> str | None:
    """The codec that the file has for activations and gradients alike; None where they differ."""
    one, other = (_codec(config.wire, kind) for kind in KINDS)
    return one if one == other else None


def coded(config: ExperimentConfig, codec: str | None) -> WireConfig:
    """What all clients send by where activations and gradients have this codec; None: the file's.

    All else of ``wire`` stays as it is, and so do options and feedback where the file has this codec already.
    """
    if codec is None:
        return config.wire
    asked = {kind: CodecConfig(codec=codec) for kind in KINDS if _codec(config.wire, kind) != codec}
    return config.wire.model_copy(update=asked)


def _codec(wire: WireConfig, kind: str) -> str:
    asked: CodecConfig | None = getattr(wire, kind)
    return "none" if asked is None else asked.codec


def _own(config: ExperimentConfig, client: ClientConfig, key: str) -> Any:
    value = getattr(client, key)
    if value is None or value == 0:
        value = config.lora.rank if key == "rank" else getattr(config.model, key)
    return max(value.values()) if isinstance(value, dict) else value


def _distance(own: Any, value: Any, listed: Sequence[Any]) -> int:
    if value == own:
        return 0
    if isinstance(value, int) and isinstance(own, int):
        order: list[Any] = sorted({own, *listed})
    else:
        order = [own, *(each for each in listed if each != own)]
    return abs(order.index(value) - order.index(own))
