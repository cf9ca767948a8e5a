"""What a plan knows of one client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from atlas_cli.config.schema.experiment import Learns
from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.memory.step import gets_gradient


@dataclass(frozen=True)
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

    @property
    def dtype(self) -> str:
        """The number type of its frozen weights that are not quantised, and of what it sends at the cut."""
        return self.format.dtype
