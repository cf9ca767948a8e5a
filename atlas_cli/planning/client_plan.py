"""What a plan knows of one client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from atlas_cli.config.schema.experiment import ClientSpec, ExperimentConfig, Learns
from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.memory.step import gets_gradient
from atlas_cli.wire.step_codecs import StepCodecs


@dataclass(frozen=True, slots=True)  # there may be a million
class ClientPlan:
    """One client: its task group, its number of blocks, and the rank of every adapted layer by path in the base.

    ``key`` is the place of the client in the config; ``format``: how it holds its frozen weights; ``local_steps`` are
    those of a round; ``learns``: how its half learns, without any adapter where it is frozen; ``wire``: how its
    messages are sent.
    """

    name: str
    task_group: str
    cut: int
    ranks: Mapping[str, int]
    key: str
    format: WeightFormat
    local_steps: int
    checkpointing: bool = False
    weight: float = 1.0
    learns: Learns = "backprop"
    wire: WireConfig = field(default_factory=WireConfig)

    @property
    def waits(self) -> bool:
        """Whether its steps wait for a gradient of the server."""
        return gets_gradient(self.learns)

    def uploads(self, training: TrainingConfig) -> list[bool]:
        """Whether activations go up, by local step of a round; of a frozen client, while its texts are new."""
        every = training.auxiliary.every if self.learns == "auxiliary" else 1
        return [step % every == 0 for step in range(self.local_steps)]

    def named(self, name: str) -> ClientPlan:
        """The same client under another name, with which it shares all else."""
        alike = (self.task_group, self.cut, self.ranks, self.key, self.format, self.local_steps)
        return ClientPlan(name, *alike, self.checkpointing, self.weight, self.learns, self.wire)

    @property
    def dtype(self) -> str:
        """The number type of its frozen weights that are not quantised, and of what it sends at the cut."""
        return self.format.dtype


def client_plan(spec: ClientSpec, cut: int, ranks: Mapping[str, int]) -> ClientPlan:
    """The plan of a client of the config, with ``cut`` blocks and adapters of these ranks."""
    format = WeightFormat.of(spec)._replace(embedding=spec.embedding)
    rest = (spec.key, format, spec.local_steps, spec.checkpointing, spec.weight, spec.learns, spec.wire)
    return ClientPlan(spec.name, spec.task_group, cut, {} if spec.learns == "frozen" else ranks, *rest)


def codecs_of(config: ExperimentConfig, client: ClientPlan, hidden_size: int) -> StepCodecs:
    """The codecs of the kinds of messages that a client and the server send each other.

    Raises:
        ConfigError: as ``wire.codecs.codec_of``.
    """
    kinds = ["activations", *(["gradients"] if client.waits else [])]
    kinds += ["features", "feature-gradients"] if config.training.labels == "client" else []
    own, server = (getattr(torch, dtype) for dtype in (client.dtype, config.model.dtype))
    return StepCodecs.of(client.wire, hidden_size, own, server, config.seed, kinds)
