"""Builds one client in its state before a run, in whichever process it will compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from atlas_cli.aggregation.checks import term_of
from atlas_cli.config.schema.experiment import ExperimentConfig, Learns
from atlas_cli.federation.parties.anchor import Anchor
from atlas_cli.federation.parties.auxiliary_client import AuxiliaryClient
from atlas_cli.federation.parties.control_variate import ControlVariate
from atlas_cli.federation.parties.frozen_client import FrozenClient
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.parties.unsplit_client import UnsplitClient
from atlas_cli.federation.parties.zeroth_order_client import ZerothOrderClient
from atlas_cli.models.auxiliary_head import auxiliary_head
from atlas_cli.models.cut_parts import CutParts
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.planning.client_plan import ClientPlan, codecs_of
from atlas_cli.planning.method import method_of, pull_of, shares_gradients
from atlas_cli.seeding import forked
from atlas_cli.tasks.contract import BaseTask

_SPLIT: Mapping[Learns, type[SplitClient]] = {
    "backprop": SplitClient,
    "auxiliary": AuxiliaryClient,
    "zeroth-order": ZerothOrderClient,
    "frozen": FrozenClient,
}


def new_client(
    config: ExperimentConfig,
    planned: ClientPlan,
    base: FrozenBase,
    task: BaseTask,
    upper: Mapping[str, int],
    device: torch.device,
) -> Party:
    """Build a client that holds ``base`` and trains ``task``.

    Args:
        upper: ranks of the adapters above its cut, by path; they are its own if it is unsplit.
    """
    split = config.mode == "split-federated"
    made: Party = (_SPLIT[planned.learns] if split else UnsplitClient)(
        planned.name,
        base,
        planned.cut,
        planned.ranks,
        Setting.of(config, device),
        upper_ranks={} if split else upper,
        task=task,
        # a language-model head is the output embedding of the client's own base
        head=head_of_client(config, planned, base, task, device),
        checkpointing=planned.checkpointing,
    )
    made.wire = codecs_of(config, planned, base.hidden_size)
    method = method_of(config)
    if not made.trained():
        return made
    made.term = term_of(method)
    if mu := pull_of(config):
        made.anchor = Anchor(mu, planned.local_steps)
    if shares_gradients(config):
        made.control = ControlVariate(planned.local_steps)
    made.train_only(method.parts_of(1).trained)
    return made


def head_of_client(
    config: ExperimentConfig, planned: ClientPlan, base: FrozenBase, task: BaseTask, device: torch.device
) -> nn.Module | None:
    """The head that a client holds, before training: the task's, an auxiliary one, or none."""
    if heads_on_clients(config):
        head = build_head(base, task, config.seed, planned.task_group, device)
        return with_cut_parts(config, head, base, planned.task_group, device)
    if planned.learns != "auxiliary":
        return None
    with forked(config.seed, "auxiliary head", planned.task_group):
        return auxiliary_head(base.model, base.config, base.family, task, base.lm_head).to(device)


def with_cut_parts(
    config: ExperimentConfig, head: nn.Module, base: FrozenBase, group: str, device: torch.device
) -> nn.Module:
    """The head of a task group with what mechanisms add to it, as it is before training."""
    parts = CutParts.of(config.privacy)
    return parts.add_to(head, base.hidden_size, lambda name: forked(config.seed, name, group)).to(device)


def needs_output(config: ExperimentConfig, clients: Iterable[ClientPlan]) -> bool:
    """Whether any of these clients has a head, for which those of language models hold the output embedding."""
    return heads_on_clients(config) or any(client.learns == "auxiliary" for client in clients)


def heads_on_clients(config: ExperimentConfig) -> bool:
    """Whether clients train heads: in a U-shaped split and in the unsplit modes."""
    return config.mode != "split-federated" or config.training.labels == "client"
