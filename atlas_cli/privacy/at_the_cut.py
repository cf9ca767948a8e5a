"""What a config's mechanisms do to the activations that one party sends: a client in training, or who predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.privacy.mechanisms import ActiveMechanism, active_mechanisms
from atlas_cli.privacy.mechanisms.activations import ActivationNoise
from atlas_cli.privacy.mechanisms.contract import BaseMechanism, sent_by
from atlas_cli.privacy.mechanisms.mid import BottleneckNoise


def activation_noise(privacy: PrivacyConfig, multiplier: float | None, seed: int, name: str) -> ActivationNoise | None:
    """The noise on the activations of a party; None if there is none."""
    if privacy.activations is None:
        return None
    assert privacy.activations.clip is not None and multiplier is not None
    return ActivationNoise(privacy.activations.clip, multiplier, seed, name)


def bottleneck_noise(privacy: PrivacyConfig, seed: int, name: str) -> BottleneckNoise | None:
    """The noise of the bottleneck in a party's head; None if there is none."""
    return None if privacy.mid is None else BottleneckNoise(privacy.mid.weight, seed, name)


def acting_mechanisms(active: Iterable[ActiveMechanism], seed: int, name: str) -> tuple[BaseMechanism, ...]:
    """Of a party: those that are files by themselves, as the others do nothing in the hooks."""
    return tuple(
        each.mechanism(each.options, seed, name)
        for each in active
        if any(getattr(each.mechanism, hook) is not getattr(BaseMechanism, hook) for hook in ("sent", "penalty"))
    )


def sent_to_predict(
    privacy: PrivacyConfig, multiplier: float | None, seed: int
) -> Callable[[Tensor, Tensor, int, nn.Module], Tensor] | None:
    """What crosses the cut where predictions are made, of activations, mask, number of the batch and the model's head;
    None: these activations.

    Args:
        multiplier: of the noise on activations, as the run's manifest has it.
    """
    noise = activation_noise(privacy, multiplier, seed, "evaluation")
    mechanisms = acting_mechanisms(active_mechanisms(privacy).values(), seed, "evaluation")
    bottleneck = bottleneck_noise(privacy, seed, "evaluation")
    if noise is None and bottleneck is None and not mechanisms:
        return None

    def sent(activations: Tensor, mask: Tensor, number: int, head: nn.Module) -> Tensor:
        if bottleneck is not None:
            activations, _ = bottleneck(head, activations, mask, number)
        for mechanism in mechanisms:
            activations = sent_by(mechanism, activations, mask, (0, number))
        return activations if noise is None else noise(activations, number)

    return sent
