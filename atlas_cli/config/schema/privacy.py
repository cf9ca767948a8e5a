"""The part of the config that says what is done to what leaves a client, and how much it is allowed to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from atlas_cli import discovery
from atlas_cli.config.schema.section import Section

LEAST_NOISE = 1e-3  # below, the accountant's numbers overflow
LEAST_EPSILON = 1e-3  # that a target may be


class NoiseConfig(Section):
    """Clipping to an L2 norm, and Gaussian noise in proportion to it: a multiplier, or the epsilon it should give."""

    clip: float | None = Field(None, ge=1e-9, le=1e9, description="largest L2 norm that is let through; noise needs it")
    noise_multiplier: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="standard deviation of the noise by clip, at least 0.001; 0: clipping alone, no epsilon",
    )
    epsilon: float | None = Field(
        None, gt=0, le=1000, description="after all rounds, at privacy.delta; the multiplier is searched for"
    )

    @model_validator(mode="after")
    def _bounded_and_given_once(self) -> NoiseConfig:
        if self.clip is None:
            raise ValueError("noise without clipping bounds nothing; set clip, e.g. 1.0")
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("give one of noise_multiplier and epsilon (noise_multiplier: 0 clips only)")
        if self.noise_multiplier is not None and 0 < self.noise_multiplier < LEAST_NOISE:
            raise ValueError(
                f"noise_multiplier must be 0 (clips only) or at least {LEAST_NOISE:g}, got {self.noise_multiplier:g}: "
                "with less noise epsilon is above 100,000"
            )
        if self.epsilon is not None and self.epsilon < LEAST_EPSILON:
            raise ValueError(f"epsilon must be at least {LEAST_EPSILON:g}, got {self.epsilon:g}: it leaves noise alone")
        return self


class UpdatesConfig(NoiseConfig):
    """On what a client sends at the end of a round, less what it was delivered: client-level privacy."""

    where: Literal["server", "client"] = Field(
        "server",
        description="who adds the noise: server (once, to the mean: it sees each update) or client (to each update: "
        "nobody sees it without)",
    )


class LabelsConfig(Section):
    """Randomised response on class labels, drawn once per training example."""

    epsilon: float = Field(gt=0, le=1000, description="of one label, however often it is used")
    correction: Literal["forward", "none"] = Field(
        "forward", description="forward: the loss knows how labels were randomised; none: it takes them as they are"
    )


class NoPeekConfig(Section):
    """Distance correlation between token embeddings and activations as a part of the client's loss."""

    weight: float = Field(gt=0, le=1e6)


class _PrivacyFields(Section):
    """Mechanisms on what crosses the wire; all are off by default."""

    delta: float = Field(1e-5, gt=0, lt=1, description="of every epsilon; below 1 / (number of clients or examples)")
    updates: UpdatesConfig | None = Field(None, description="client-level noise on adapters and heads that are sent")
    examples: NoiseConfig | None = Field(
        None, description="DP-SGD: clipping of each example's gradient, and noise, at every local step of a client"
    )
    labels: LabelsConfig | None = Field(None, description="label privacy by randomised response")
    activations: NoiseConfig | None = Field(None, description="clipping of each token's activation, and noise")
    fingerprints: NoiseConfig | None = Field(None, description="on what clients are clustered by")
    nopeek: NoPeekConfig | None = Field(None, description="less dependence of activations on tokens; no epsilon")
    mask_gradients: bool = Field(
        False,
        description="gradients returned for padding look like others to an observer of the wire; not to the server",
    )
    compress: Literal["none", "bfloat16", "int8"] = Field(
        "none", description="of what crosses the cut, in both directions; saves bytes and is not a defence"
    )
    pad_lengths: int | None = Field(
        None, ge=2, description="pad batches to a multiple of this many tokens, against observers of message sizes"
    )

    def added(self) -> list[str]:
        """Keys of mechanisms that are on and have no field here: each is a file whose options that file checks."""
        return [
            name
            for name in type(self).model_fields
            if name not in _PrivacyFields.model_fields and getattr(self, name) is not None
        ]

    def noises(self) -> dict[str, NoiseConfig]:
        """The mechanisms that add Gaussian noise and are on, by key."""
        sections = {name: getattr(self, name) for name in ("updates", "examples", "activations", "fingerprints")}
        return {name: section for name, section in sections.items() if section is not None}

    def in_a_step(self) -> str | None:
        """The first mechanism that acts inside a client's local step and is on."""
        names = ("examples", "activations", "nopeek", "mask_gradients", "compress")
        on = [name for name in names if getattr(self, name) not in (None, False, "none")]
        return next(iter([*on, *self.added()]), None)

    def with_target(self) -> str | None:
        """The first mechanism whose noise is found for an epsilon after all rounds."""
        return next((name for name, noise in self.noises().items() if noise.epsilon is not None), None)


def _with_added() -> type[_PrivacyFields]:
    """A key for every mechanism that is a file by itself, of this package or of another."""
    keys = (name.replace("-", "_") for name in discovery.names("privacy.mechanisms"))
    section = (dict[str, Any] | None, Field(None, description="options of this mechanism; {}: with its defaults"))
    return create_model(  # type: ignore[call-overload]
        "PrivacyConfig",
        __base__=_PrivacyFields,
        __module__=__name__,
        __doc__=_PrivacyFields.__doc__,
        **{key: section for key in keys if not hasattr(_PrivacyFields, key) and key not in _PrivacyFields.model_fields},
    )


if TYPE_CHECKING:
    PrivacyConfig = _PrivacyFields
else:
    PrivacyConfig = _with_added()
