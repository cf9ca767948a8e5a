"""One client as it is before a run, from its plan and the base that it holds; wherever it will compute."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from atlas_cli.aggregation.contract import PARTS
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.parties.unsplit_client import UnsplitClient
from atlas_cli.models.adapters.lora import AdapterSet, build_adapters
from atlas_cli.models.block_paths import by_layer
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan
from atlas_cli.tasks.contract import BaseTask


def new_client(
    config: ExperimentConfig,
    planned: ClientPlan,
    base: FrozenBase,
    task: BaseTask,
    upper: Mapping[str, int],
    device: torch.device,
) -> Party:
    """A client that holds ``base`` and trains ``task``.

    Args:
        upper: ranks of its adapters above the cut, by path, which it has in the unsplit modes.
    """
    # a language-model head is the output embedding of the client's own base
    head = build_head(base, task, config.seed, planned.task_group, device) if heads_on_clients(config) else None
    made: Party
    if config.mode == "split-federated":
        made = SplitClient(
            planned.name,
            rank_config=by_layer(planned.ranks, base.family),
            split_layer=planned.cut,
            device=device,
            base=base,
            lora=config.lora,
            training=config.training,
            seed=config.seed,
            task=task,
            head=head,
            checkpointing=planned.checkpointing,
        )
    else:
        assert head is not None
        made = UnsplitClient(
            planned.name,
            base,
            task,
            adapters_of(config, base, planned.ranks, device),
            adapters_of(config, base, upper, device),
            head,
            config.lora,
            config.training,
            config.seed,
            device,
            planned.cut,
            planned.checkpointing,
        )
    method = method_of(config)
    made.term = method.client_term()
    if set(method.TRAINED) != set(PARTS):
        made.train_only(method.TRAINED)
    return made


def heads_on_clients(config: ExperimentConfig) -> bool:
    """Whether clients train heads: U-shaped and unsplit."""
    return config.mode != "split-federated" or config.training.labels == "client"


def adapters_of(
    config: ExperimentConfig, base: FrozenBase, ranks: Mapping[str, int], device: torch.device
) -> AdapterSet:
    """Adapters by path as a config starts them."""
    lora = config.lora
    return build_adapters(
        base.model,
        ranks,
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        seed=config.seed,
        device=device,
    )
