"""atlas: split federated fine-tuning of Hugging Face language models with LoRA adapters of different ranks.

The Python interface, loaded on first use so that the command line starts without torch:

    run, load_run, Result          an experiment, and what came of it
    SplitClient, SplitServer       the two sides of the split
    federated_training_round       one local step and merge over given batches
    create_message                 a message as it would cross the wire, with its size
    get_split_point                the middle of a model
    RankAllocator, DeviceProfiler  ranks by layer from a device's budgets
    TaskClusterer                  which clients share a task
    LoRAAdapter                    one adapter of one layer
    load_config, build             the parties of an experiment, before anything is trained
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_cli.clustering.clusterer import TaskClusterer as TaskClusterer
    from atlas_cli.config.load import load_config as load_config
    from atlas_cli.experiment.api.one_round import create_message as create_message
    from atlas_cli.experiment.api.one_round import federated_training_round as federated_training_round
    from atlas_cli.experiment.api.parties import SplitClient as SplitClient
    from atlas_cli.experiment.api.parties import SplitServer as SplitServer
    from atlas_cli.experiment.api.ranks_for_device import DeviceProfiler as DeviceProfiler
    from atlas_cli.experiment.api.ranks_for_device import RankAllocator as RankAllocator
    from atlas_cli.federation.build import build as build
    from atlas_cli.models.adapters.lora import LoRAAdapter as LoRAAdapter
    from atlas_cli.planning.cuts.choice import get_split_point as get_split_point
    from atlas_cli.result import Result as Result
    from atlas_cli.result import load_run as load_run
    from atlas_cli.result import run as run

_HOME = {
    "DeviceProfiler": "experiment.api.ranks_for_device",
    "RankAllocator": "experiment.api.ranks_for_device",
    "Result": "result",
    "LoRAAdapter": "models.adapters.lora",
    "SplitClient": "experiment.api.parties",
    "SplitServer": "experiment.api.parties",
    "TaskClusterer": "clustering.clusterer",
    "build": "federation.build",
    "create_message": "experiment.api.one_round",
    "federated_training_round": "experiment.api.one_round",
    "get_split_point": "planning.cuts.choice",
    "load_config": "config.load",
    "load_run": "result",
    "run": "result",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
