"""The plan of an experiment: everything that follows from the config and the model's shapes, on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from atlas_cli import discovery
from atlas_cli.config.schema import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.families import family_of
from atlas_cli.models.families._base import Family
from atlas_cli.models.load import check_cut, from_config
from atlas_cli.models.lora import features_of
from atlas_cli.models.placement import adapted_names, place_ranks
from atlas_cli.models.resolve import model_config
from atlas_cli.models.split import client_half, server_half
from atlas_cli.planning.devices import client_devices, server_device


@dataclass(frozen=True)
class ClientPlan:
    """One client: its task group and the rank of every adapted layer, by path in the base model."""

    name: str
    task_group: str
    ranks: Mapping[str, int]
    key: str
    checkpointing: bool = False


@dataclass(frozen=True)
class Plan:
    """What an experiment will be.

    Attributes:
        init: how weights are initialised, in words.
        cut: number of blocks on the client, of ``n_layers``.
        features: (d_in, d_out) of every layer that any party adapts.
        upper_ranks: LoRA on the server half, by path; empty when the server trains heads only.
        parameters: numbers of parameters of "model", "client half", "server half".
        setup_tensors: the client half's weights as meta tensors: what a client must get before it can start.
    """

    config: ExperimentConfig
    family: Family
    hf_config: Any
    init: str
    n_layers: int
    hidden_size: int
    cut: int
    clients: tuple[ClientPlan, ...]
    upper_ranks: Mapping[str, int]
    features: Mapping[str, tuple[int, int]]
    parameters: Mapping[str, int]
    setup_tensors: Mapping[str, torch.Tensor]

    def members(self, group: str) -> list[ClientPlan]:
        """The clients of a task group, in the order of the config."""
        return [c for c in self.clients if c.task_group == group]

    def adapter_parameters(self, ranks: Mapping[str, int]) -> int:
        """Numbers in a set of adapters: r (d_in + d_out) a layer."""
        return sum(rank * sum(self.features[path]) for path, rank in ranks.items())

    def group_ranks(self, group: str) -> dict[str, int]:
        """Rank of the group's merged adapter: the largest of its clients, a layer."""
        merged: dict[str, int] = {}
        for client in self.members(group):
            for path, rank in client.ranks.items():
                merged[path] = max(rank, merged.get(path, 0))
        return dict(sorted(merged.items(), key=lambda item: list(self.features).index(item[0])))


def make_plan(config: ExperimentConfig) -> Plan:
    """Check a config against its model's shapes; loads no weights.

    Raises:
        ConfigError: split layer, rank, target, task or length that the model cannot take.
        ResourceError: the model's config cannot be found.
    """
    hf_config, _, init = model_config(config.model)
    family = family_of(hf_config.model_type)
    base = meta_base(hf_config, family, getattr(torch, config.model.dtype))
    n_layers, hidden = int(hf_config.num_hidden_layers), int(hf_config.hidden_size)
    cut = check_cut(config.model.split_layer, n_layers)
    _check_tasks(config, hf_config, family)
    client_devices(config), server_device(config)  # every device that is named must be known

    names = adapted_names(base, family, config.lora.targets)
    clients = tuple(
        ClientPlan(
            spec.name,
            spec.task_group,
            place_ranks(base, family, _planned(config, spec.rank), range(cut), names, _rank_key(config, spec.key)),
            spec.key,
            spec.checkpointing,
        )
        for spec in config.expanded_clients()
    )
    above = dict.fromkeys(range(cut, n_layers), config.server.rank)
    upper = place_ranks(base, family, above, range(cut, n_layers), names, "server.rank") if config.server.rank else {}
    if upper == {} and config.server.rank:
        raise ConfigError(f"the server half has no layers at split_layer {cut}; set server.rank: 0", key="server.rank")
    paths = [f"{family.blocks}.{layer}.{name}" for layer in range(n_layers) for name in names]
    lower_half = client_half(base, family, cut)
    return Plan(
        config=config,
        family=family,
        hf_config=hf_config,
        init=init,
        n_layers=n_layers,
        hidden_size=hidden,
        cut=cut,
        clients=clients,
        upper_ranks=upper,
        features={path: features_of(base.get_submodule(path)) for path in paths},
        parameters={
            "model": _count(base),
            "client half": _count(lower_half),
            "server half": _count(server_half(base, family, cut)),
        },
        setup_tensors=dict(lower_half.state_dict()),
    )


def meta_base(hf_config: Any, family: Family, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The base model without storage.

    Raises:
        ConfigError: sizes that do not fit together.
    """
    with torch.device("meta"):
        whole: Any = from_config(AutoModelForCausalLM if family.causal else AutoModel, hf_config, dtype)
    base: nn.Module = whole.base_model if family.causal else whole
    for path in family.unused:
        setattr(base, path, None)
    return base


def _check_tasks(config: ExperimentConfig, hf_config: Any, family: Family) -> None:
    for name, group in config.task_groups.items():
        task = discovery.load("tasks", group.task).Task
        if task.causal_only and not family.causal:
            raise ConfigError(
                f"{group.task} needs a decoder, and {hf_config.model_type} is an encoder; "
                "use sequence-classification, token-classification or question-answering, or another model",
                key=f"task_groups.{name}.task",
            )
    # RoBERTa counts positions from padding_idx + 1
    positions = getattr(hf_config, "max_position_embeddings", None)
    offset = hf_config.pad_token_id + 1 if hf_config.model_type in ("roberta", "xlm-roberta") else 0
    if positions is not None and config.training.max_length > positions - offset:
        raise ConfigError(
            f"{config.training.max_length} tokens are more than the model's {positions - offset} positions; "
            f"set it to {positions - offset} or less",
            key="training.max_length",
        )


def _planned(config: ExperimentConfig, rank: int | dict[int, int] | str) -> int | dict[int, int]:
    # rank: auto is given its number before training (planning/auto_ranks.py); until then a plan has the least
    return config.allocation.r_min if isinstance(rank, str) else rank


def _rank_key(config: ExperimentConfig, client_key: str) -> str:
    own = config.clients[client_key.removeprefix("clients.")].rank
    return "lora.rank" if own is None else f"{client_key}.rank"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
