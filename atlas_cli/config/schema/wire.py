"""The part of the config that says in which bytes messages cross the cut."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from atlas_cli.config.schema.section import Section, one_of


def _without(*keys: str) -> dict[str, JsonValue]:
    """Of a kind of message: keys of ``CodecConfig`` that it does not have (``config.wire_checks`` says so)."""
    return {"properties": {key: {"const": False} for key in keys}}


class CodecConfig(Section):
    """How one kind of message is sent."""

    codec: Annotated[str, one_of("wire.codecs")] = Field(
        description="The codec, by the name of its file.", examples=["int8"]
    )
    options: dict[str, Any] = Field(
        {}, description="Options of the codec; its page in the reference lists them.", examples=[{"block": 64}]
    )
    feedback: bool = Field(
        False,
        description="What a codec lost of a text (of adapters: of an upload) is kept by the sender, and added to the "
        "next one. Only gradients, feature_gradients and adapters have it.",
        examples=[True],
    )
    changed_rows: bool = Field(
        False,
        description="A message has only the components (of a head: rows) that changed, with a bit for each that says "
        "so, where that is smaller. Only adapters and deliveries have it.",
        examples=[True],
    )


class WireConfig(Section):
    """In which bytes messages are sent, by their kind: those of a local step, and adapters and heads at the ends of
    rounds. Without a key they are sent as they are computed.

    It saves bytes and is not a defence.
    """

    activations: CodecConfig | None = Field(
        None,
        description="What clients send up at the cut.",
        examples=[{"codec": "int8"}],
        json_schema_extra=_without("feedback", "changed_rows"),
    )
    gradients: CodecConfig | None = Field(
        None,
        description="What comes back down for it.",
        examples=[{"codec": "int8"}],
        json_schema_extra=_without("changed_rows"),
    )
    features: CodecConfig | None = Field(
        None,
        description="With `training.labels: client`, what the server half gives, which comes down; without it, as "
        "`activations`.",
        examples=[{"codec": "bfloat16"}],
        json_schema_extra=_without("feedback", "changed_rows"),
    )
    feature_gradients: CodecConfig | None = Field(
        None,
        description="With `training.labels: client`, what goes up for the features; without it, as `gradients`.",
        examples=[{"codec": "bfloat16"}],
        json_schema_extra=_without("changed_rows"),
    )
    adapters: CodecConfig | None = Field(
        None,
        description="What clients send up after their local steps: adapters, and heads where they train them, as "
        "changes of what they were delivered.",
        examples=[{"codec": "int4"}],
    )
    deliveries: CodecConfig | None = Field(
        None,
        description="What comes down after a merge: adapters and heads, as changes of what a client holds, and rows "
        "that are added to the base. The first delivery is sent as it is.",
        examples=[{"codec": "int8"}],
        json_schema_extra=_without("feedback"),
    )

    header: Literal["safetensors", "compact"] | None = Field(
        None,
        description="How a message of a step or of the end of a round says what tensors it has: `safetensors`, as "
        "without the key, with some 80 bytes a tensor, or `compact`, with its name and a few bytes, where the other "
        "header would be more than 2 % of the message.",
        examples=["compact"],
    )

    def over(self, other: WireConfig) -> WireConfig:
        """What a client has: its own keys, and those of all clients where it has none."""
        return other.model_copy(update={name: own for name in type(self).model_fields if (own := getattr(self, name))})

    def by_kind(self) -> dict[str, tuple[str, CodecConfig]]:
        """The codec of each kind of message of a step, with the key that asks for it; none of what is sent as it is."""
        found = {
            "activations": "activations",
            "gradients": "gradients",
            "features": "features" if self.features else "activations",
            "feature-gradients": "feature_gradients" if self.feature_gradients else "gradients",
        }
        asked = {kind: (key, getattr(self, key)) for kind, key in found.items()}
        return {kind: (key, codec) for kind, (key, codec) in asked.items() if codec and codec.codec != "none"}

    @property
    def acts(self) -> bool:
        """Whether any message of a step is another than without it."""
        return bool(self.by_kind()) or self.header == "compact"

    def of_parameters(self) -> dict[str, CodecConfig]:
        """The codecs of ``adapters`` and ``deliveries``; none of what is sent as it is."""
        asked = {"adapters": self.adapters, "deliveries": self.deliveries}
        return {name: codec for name, codec in asked.items() if codec and codec.codec != "none"}

    def asked(self) -> list[CodecConfig]:
        """All codecs; none of what is sent as it is."""
        return [*(codec for _, codec in self.by_kind().values()), *self.of_parameters().values()]
