"""The settings with which all parties of an experiment are built, clients and server alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig, LoraConfig, TrainingConfig
from atlas_cli.models.adapters.lora import LORA, AdapterForm, AdapterSet, build_adapters
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.planning.method import method_of


@dataclass(frozen=True)
class Setting:
    """How parties build and train their adapters.

    Attributes:
        lora: scale, dropout and targets; ``training``: optimizers, clipping and precision.
        seed: the seed of all random draws.
        device: where they compute.
        form: of all adapters.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    form: AdapterForm = LORA

    @classmethod
    def of(cls, config: ExperimentConfig, device: torch.device) -> Self:
        """The settings of a config."""
        return cls(config.lora, config.training, config.seed, device, method_of(config).form())

    def ranks(self, base: FrozenBase, rank: int | dict[int, int], layers: range, key: str) -> dict[str, int]:
        """Ranks by path on the targets of some layers, from one rank for all or one for each layer.

        Args:
            key: of the config, that errors name.

        Raises:
            ConfigError: a layer outside ``layers``, or a rank that a layer is too small for.
        """
        names = adapted_names(base.model, base.family, self.lora.targets)
        return place_ranks(base.model, base.family, rank, layers, names, key, self.form)

    def adapters(self, base: FrozenBase, ranks: Mapping[str, int]) -> AdapterSet:
        """Adapters by path, with their values before training."""
        lora = self.lora
        return build_adapters(
            base.model,
            ranks,
            alpha=lora.alpha,
            dropout=lora.dropout,
            rslora=lora.rslora,
            seed=self.seed,
            device=self.device,
            form=self.form,
        )
