"""The part of the config that says what is done to what leaves a client, and how much it is allowed to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from atlas_cli import discovery
from atlas_cli.config.schema.section import Section

LEAST_NOISE = 1e-3  # below, the accountant's numbers overflow
LEAST_EPSILON = 1e-3  # that a target may be
Channel = Literal["updates", "activations", "labels", "fingerprints"]
PositiveEpsilon = Annotated[float, Field(gt=0, le=1e6)]
CHANNEL_OF: dict[str, Channel] = {  # by mechanism that bounds an epsilon
    "updates": "updates",
    "examples": "updates",
    "activations": "activations",
    "santext": "activations",
    "custext": "activations",
    "labels": "labels",
    "fingerprints": "fingerprints",
}
AT_THE_CUT = ("activations", "santext", "custext")  # each bounds the same channel


class NoiseConfig(Section):
    """Clipping to an L2 norm, and Gaussian noise in proportion to it: a multiplier, or the epsilon it should give."""

    clip: float | None = Field(
        None,
        ge=1e-9,
        le=1e9,
        description="The largest L2 norm that is let through; longer vectors are scaled down to it. Noise needs it.",
        examples=[1.0],
    )
    noise_multiplier: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Standard deviation of the noise, in units of `clip`, at least 0.001. With 0 there is clipping "
        "alone, and no epsilon.",
        examples=[1.0],
    )
    epsilon: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="The epsilon to reach after all rounds, at `privacy.delta`, instead of a multiplier, which is then "
        "searched for.",
        examples=[8],
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
        description="Who adds the noise: the server once, to the mean, so that it sees each update; or each client, so "
        "that nobody sees its update without.",
    )


class LabelsConfig(Section):
    """Randomised response on class labels, drawn once per training example."""

    epsilon: float = Field(
        gt=0, le=1000, description="The epsilon of one label, however often it is used.", examples=[4]
    )
    correction: Literal["forward", "none"] = Field(
        "forward",
        description="With `forward` the loss knows how labels were randomised; with `none` it takes them as they are.",
    )


class BudgetConfig(Section):
    """The most that a run may tell of one client, example or label: the round that would pass it is not trained.

    It bounds channels with a mechanism, each by itself; what earlier runs told counts, where `--ledger FILE` says it.
    """

    epsilon: PositiveEpsilon | dict[Channel, PositiveEpsilon] = Field(
        description="Of every channel that a mechanism bounds; or by channel (`updates`, `activations`, `labels`, "
        "`fingerprints`), where those not named have no budget.",
        examples=[8],
    )
    delta: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The delta of these epsilons; none is `privacy.delta`.",
        examples=[1e-5],
    )
    then: Literal["stop", "freeze"] = Field(
        "stop",
        description="With `stop`, training ends before the round that would pass a budget, with exit code 5. With "
        "`freeze`, a client whose turn would pass it is not drawn any more, and others go on.",
    )

    @model_validator(mode="after")
    def _some_channel(self) -> BudgetConfig:
        if self.epsilon == {}:
            raise ValueError("names no channel; give epsilon a number, or {updates: 8}")
        return self


class NoPeekConfig(Section):
    """Distance correlation between token embeddings and activations as a part of the client's loss."""

    weight: float = Field(
        gt=0, le=1e6, description="How much the distance correlation counts beside the task's loss.", examples=[1.0]
    )


class MidConfig(Section):
    """A trained bottleneck at the cut: of each activation a draw is sent, which is held near a standard normal."""

    weight: float = Field(
        0.01,
        ge=0,
        le=1e6,
        description="How much the divergence of a token's draw from N(0, I), in nats, counts beside the task's loss. 0 "
        "leaves a bottleneck, with noise.",
    )
    rank: int = Field(
        8, ge=1, le=1024, description="Rank of the linear map from an activation to the deviations of its noise."
    )


class DenoiseConfig(Section):
    """A client takes out of the features that come back what came of the noise that it sent; trained with its head."""

    rank: int = Field(
        8,
        ge=1,
        le=1024,
        description="Rank of the linear map from the noise and the activation of a token to what its features gain.",
    )


class SanTextConfig(Section):
    """Tokens are replaced by others, the likelier the nearer, before the client half; both shares make it SanText+."""

    epsilon: float = Field(
        ge=0,
        le=1e6,
        description="By unit of distance between token embeddings, so that an epsilon of one model says nothing of "
        "another. 0 draws evenly of all tokens.",
        examples=[15],
    )
    sensitive_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="SanText+: the share of tokens, the rarest, that are always replaced.",
        examples=[0.5],
    )
    other_probability: float | None = Field(
        None,
        ge=1e-6,
        lt=1,
        description="SanText+: the probability with which other tokens are replaced.",
        examples=[0.2],
    )

    @model_validator(mode="after")
    def _both_shares(self) -> SanTextConfig:
        if (self.sensitive_share is None) != (self.other_probability is None):
            raise ValueError("give both of sensitive_share and other_probability (SanText+), or none of them")
        return self


class CusTextConfig(Section):
    """Tokens are replaced by others of a set of near ones, before the client half."""

    epsilon: float = Field(
        ge=0, le=1e6, description="Of one token among those of its set. 0 draws evenly of the set.", examples=[1]
    )
    tokens: int = Field(20, ge=2, le=10_000, description="Tokens of a set.", json_schema_extra={"unit": "tokens"})


class _PrivacyFields(Section):
    """Mechanisms on what crosses the wire; all are off by default."""

    delta: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description="The delta of every epsilon. It should be below 1 / the number of clients or examples.",
    )
    clients_per_user: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="The most clients that one user has. Epsilon of `updates` and of `fingerprints` then holds for all "
        "clients of a user together; other channels protect an example or a label, which one client has.",
        examples=[2],
        json_schema_extra={"unit": "clients"},
    )
    budget: BudgetConfig | None = Field(None, description="The most that may be spent on a channel.")
    updates: UpdatesConfig | None = Field(
        None, description="Client-level noise on adapters and heads that clients send."
    )
    examples: NoiseConfig | None = Field(
        None,
        description="DP-SGD: each example's gradient is clipped and noise is added, at every local step of a client.",
    )
    labels: LabelsConfig | None = Field(None, description="Label privacy by randomised response.")
    activations: NoiseConfig | None = Field(None, description="Each token's activation is clipped, and noise is added.")
    santext: SanTextConfig | None = Field(
        None, description="Each token is replaced by one drawn of all, once, before training."
    )
    custext: CusTextConfig | None = Field(
        None, description="Each token is replaced by one drawn of a set of near ones, once, before training."
    )
    fingerprints: NoiseConfig | None = Field(None, description="Clipping and noise on what clients are clustered by.")
    nopeek: NoPeekConfig | None = Field(
        None, description="Activations are made to depend less on tokens; this bounds no epsilon."
    )
    mid: MidConfig | None = Field(
        None,
        description="Activations pass a trained bottleneck with noise, a part of the client's head; this bounds no "
        "epsilon.",
    )
    denoise: DenoiseConfig | None = Field(
        None,
        description="Features that come back are denoised at the client, by a part of its head that knows the noise of "
        "activations that it sent.",
    )
    mask_gradients: bool = Field(
        False,
        description="Gradients that are returned for padding look like others to who reads the server's messages.",
        examples=[True],
    )
    pad_lengths: int | None = Field(
        None,
        ge=2,
        description="Pad batches to a multiple of this many tokens, against who sees the sizes of messages.",
        examples=[16],
        json_schema_extra={"unit": "tokens"},
    )

    @model_validator(mode="after")
    def _users_of_something(self) -> _PrivacyFields:
        if self.clients_per_user > 1 and self.updates is None and self.fingerprints is None:
            raise ValueError(
                "clients_per_user changes the epsilon of updates and of fingerprints, and neither is on; leave it out, "
                "or set privacy.updates"
            )
        return self

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

    def bounded(self) -> list[Channel]:
        """The channels that a mechanism bounds: clipping alone bounds none."""
        on = {name: getattr(self, name) for name in CHANNEL_OF}
        return [
            channel
            for name, channel in CHANNEL_OF.items()
            if on[name] is not None and getattr(on[name], "noise_multiplier", None) != 0
        ]

    def unit_of(self, unit: str) -> str:
        """What neighbouring data sets differ in, by what they would differ in if a user had one client."""
        several = self.clients_per_user > 1 and unit == "client"
        return f"user with up to {self.clients_per_user:,} clients" if several else unit

    def uses_by_user(self, mechanism: Literal["updates", "fingerprints"]) -> int:
        """How often a use by each of a user's k clients counts as one of a single client.

        Clients that add their own noise are k uses. Of noise that the server adds once to a sum, the sensitivity is k
        times that of one client, and a use with n times the squared sensitivity counts n times: k^2. Users with clients
        in several groups have fewer in each, and the sum of squares is no larger.
        """
        once = mechanism == "updates" and self.updates is not None and self.updates.where == "server"
        return self.clients_per_user ** (2 if once else 1)

    def replaces_tokens(self) -> str | None:
        """The mechanism that replaces tokens before the client half, if one is on."""
        return next((name for name in ("santext", "custext") if getattr(self, name) is not None), None)

    def in_a_step(self) -> str | None:
        """The first mechanism that acts inside a client's local step and is on."""
        names = ("examples", "activations", "nopeek", "mid", "denoise", "mask_gradients")
        on = [name for name in names if getattr(self, name) not in (None, False)]
        return next(iter([*on, *self.added()]), None)

    def with_target(self) -> str | None:
        """The first mechanism whose noise is found for an epsilon after all rounds."""
        return next((name for name, noise in self.noises().items() if noise.epsilon is not None), None)


def _with_added() -> type[_PrivacyFields]:
    """A key for every mechanism that is a file by itself, of this package or of another."""
    keys = (name.replace("-", "_") for name in discovery.names("privacy.mechanisms"))
    section = (
        dict[str, Any] | None,
        Field(None, description="Options of this mechanism; `{}` takes its defaults.", examples=[{}]),
    )
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
