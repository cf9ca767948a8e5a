"""Checks of ``wire`` against the aggregation method, and of codecs against what they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.aggregation.contract import BaseMethod
from atlas_cli.aggregation.merge_optimizer import Rule
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.errors import ConfigError
from atlas_cli.wire.codecs import codec_of


def check_wire(config: ExperimentConfig, method: BaseMethod) -> None:
    """Check codecs and their options, where each is asked for.

    Raises:
        ConfigError: a codec cannot do what it is asked for.
    """
    places = {"wire": config.wire, **{f"clients.{name}.wire": each.wire for name, each in config.clients.items()}}
    for place, wire in places.items():
        _check_steps(config, place, wire)
        _check_parameters(config, method, place, wire)
    if method.CHANGES_BASE:
        _check_one_base(config)
    for spec in config.client_kinds():
        sent = spec.wire.activations
        if spec.learns == "frozen" and sent is not None and not sends_alone(spec.wire):
            raise ConfigError(
                f"{sent.codec} does not encode each token alone, and a frozen client sends a text once, for all "
                "batches; take none, bfloat16, int8, int4, nf4 or top-k",
                key=f"{spec.key}.wire.activations",
            )


def sends_alone(wire: WireConfig) -> bool:
    """Whether what is sent up of a token depends on nothing but that token, so that it may be sent once."""
    return wire.activations is None or codec_of(wire.activations, "wire.activations").by_token


def _check_parameters(config: ExperimentConfig, method: BaseMethod, place: str, wire: WireConfig) -> None:
    """Check the codecs of adapters and heads at the ends of rounds."""
    name = config.aggregation.method
    for kind, asked in wire.of_parameters().items():
        if not codec_of(asked, f"{place}.{kind}").by_token:
            raise ConfigError(
                f"{asked.codec} is of the tokens of texts, and adapters have none; take none, bfloat16, int8, int4, "
                "nf4 or top-k",
                key=f"{place}.{kind}.codec",
            )
        if not method.SENT:
            raise ConfigError(f"with {name} neither adapters nor heads are sent; remove it", key=f"{place}.{kind}")
    if wire.header == "compact" and config.mode == "federated" and not method.SENT:
        raise ConfigError(f"with {name} nothing is sent; remove it", key=f"{place}.header")
    if "deliveries" in wire.of_parameters() and (why := _delivered_otherwise(method)):
        raise ConfigError(
            f"{name} {why}; remove it, or take another aggregation.method, as delta-svd", key=f"{place}.deliveries"
        )
    if (up := wire.adapters) is not None and up.feedback and (why := next(_turned(config, method), None)):
        raise ConfigError(
            f"adds what was lost of a component to its next change, and {why} puts components in another order; remove "
            "it, or what turns them: zero-pad, hetlora, fedsa and others leave them where they are",
            key=f"{place}.adapters.feedback",
        )


def _check_one_base(config: ExperimentConfig) -> None:
    """Check that clients of one changed base have one codec of what changes it."""
    first: dict[str, CodecConfig | None] = {}
    for spec in config.client_kinds():
        asked, group = spec.wire.of_parameters().get("deliveries"), "" if config.clustering else spec.task_group
        if first.setdefault(group, asked) != asked:
            whose = "all clients, which clustering may put together," if config.clustering else f"clients of {group}"
            raise ConfigError(
                f"{config.aggregation.method} merges into the frozen weights, which are the same for {whose} by what "
                "they decode: give all of them one codec, in wire.deliveries",
                key=f"{spec.key}.wire.deliveries",
            )


def _delivered_otherwise(method: BaseMethod) -> str | None:
    """Why what a method delivers is no change of what its clients hold, after its name; None if it is."""
    if method.SELECTS:
        return "delivers other components each time, of which a client does not hold what they were before"
    return None


def _turned(config: ExperimentConfig, method: BaseMethod) -> Iterator[str]:
    """What puts the components of adapters in another order from merge to merge."""
    if not method.KEEPS_COMPONENTS:
        yield f"aggregation.method: {config.aggregation.method}"
    if not Rule.of(config.aggregation.optimizer).is_plain and "A" in method.TRAINED:
        yield f"aggregation.optimizer: {config.aggregation.optimizer.name}"
    if config.aggregation.cross_group.strength > 0:
        yield "aggregation.cross_group"


def _check_steps(config: ExperimentConfig, place: str, wire: WireConfig) -> None:
    """Check the codecs of the messages of a step."""
    for kind, (name, asked) in wire.by_kind().items():
        codec = codec_of(asked, f"{place}.{name}")
        if asked.feedback and codec.change() is not None:
            raise ConfigError(
                f"{asked.codec} makes good what it lost with a text's next message by itself; remove it",
                key=f"{place}.{name}.feedback",
            )
        if config.training.asynchrony is not None and (asked.feedback or codec.change() is not None):
            raise ConfigError(
                "what is kept of texts between messages is not with clients that take part at their own pace; "
                "take another codec, without feedback",
                key=f"{place}.{name}.codec",
            )
        if codec.couples_examples and config.privacy.examples is not None:
            raise ConfigError(
                f"{asked.codec} decodes {kind} of one example by those of others, and privacy.examples bounds "
                "each alone; take another codec",
                key=f"{place}.{name}.codec",
            )
