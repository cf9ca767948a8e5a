"""The experiment that all contestants work on, as an atlas config, and the stock parts that others are made from."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from atlas_cli.config.load import load_config
from atlas_cli.config.schema.experiment import ExperimentConfig, TaskGroupConfig
from atlas_cli.data.read import read_group
from atlas_cli.errors import ConfigError
from atlas_cli.federation.build import build
from atlas_cli.federation.federation import Federation
from atlas_cli.models.frozen.load import FrozenBase, load_base
from atlas_cli.models.halves.split import client_half, server_half
from contestants.plain import Head

GROUP, WINDOW = "texts", 8
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"name": "gpt2", "tokenizer": "gpt2-bpe", "init": "random", "split_layer": 6},
    "minilm": {"name": "minilm", "split_layer": 3},
    "llama": {
        "name": "smollm2-135m",
        "tokenizer": "gpt2-bpe",
        "config": {"vocab_size": 50_257},
        "init": "random",
        "split_layer": 15,
    },
}


@dataclass(frozen=True)
class Experiment:
    """What is trained: a model, so many clients, and texts.

    Attributes:
        model: the ``model`` section of the config.
        data: the ``data`` section of its one task group.
        overrides: ``key=value`` changes to the config that the user gives.
        device: where everybody computes.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    clients: int
    batch: int
    overrides: Sequence[str] = ()
    device: str = "cpu"

    def config(self, folder: Path) -> ExperimentConfig:
        """As a run would read it from a file in ``folder``.

        Raises:
            ConfigError: an override that the schema does not know, or a value that is wrong.
        """
        path = folder / "speed.yaml"
        path.write_text(yaml.safe_dump(self._sections(folder)), encoding="utf-8")
        return load_config(path, self.overrides).config

    def _sections(self, folder: Path) -> dict[str, Any]:
        texts = self.clients * self.batch * WINDOW
        return {
            "name": "speed",
            "device": self.device,
            "threads": torch.get_num_threads(),
            "model": dict(self.model),
            "lora": {"rank": 8, "alpha": 16},
            "server": {"rank": 8},
            "task_groups": {
                GROUP: {"task": "sequence-classification", "data": {"limit": texts, "test_limit": 8, **self.data}}
            },
            "clients": {"client": {"task_group": GROUP, "count": self.clients}},
            "partition": {"local_test": 0, "min_examples": 1},
            "training": {"rounds": 1000, "local_steps": WINDOW, "batch_size": self.batch},
            "aggregation": {"method": "zero-pad"},
            "evaluation": {"every": 1000},
            "output": {"dir": str(folder)},
        }


def write_long_texts(folder: Path, data: Mapping[str, Any], count: int) -> Path:
    """A file of ``count`` texts (and some to test on) of over 128 tokens each: twelve sentences of a corpus on end."""
    wanted = 2 * count
    group = TaskGroupConfig.model_validate({"task": "sequence-classification", "data": {**data, "limit": 12 * wanted}})
    rows = read_group(GROUP, group, 0).train
    path = folder / "long.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(0, len(rows), 12):
            text = " ".join(row["text"] for row in rows[i : i + 12])
            file.write(json.dumps({"text": text, "label": rows[i]["label"]}) + "\n")
    return path


class Arena:
    """A federation, and the same weights, adapters and texts in the form that others need.

    Attributes:
        federation: as ``atlas train`` builds it.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.federation: Federation = build(experiment.config(folder))
        config = self.federation.config
        self.batch, self.alpha = config.training.batch_size, config.lora.alpha
        self.norm, self.lr = config.training.max_grad_norm or 0.0, config.training.client_optimizer.lr
        self.clients, self.pad = list(self.federation.clients), self.federation.pad
        self.seed, self.device = config.seed, torch.device(config.device)
        server = self.federation.server
        if not self.federation.split or config.training.labels != "server":
            raise ConfigError("others are compared with mode: split-federated and training.labels: server; leave them")
        # as they are before anybody trains
        self._adapters = {
            "client": _copied(self.federation.clients[self.clients[0]].adapters.state()),
            "server": _copied(server.groups[GROUP].adapters.state()),
        }
        self._head = copy.deepcopy(server.heads[GROUP])

    @cached_property
    def stock(self) -> FrozenBase:
        """The same weights in a model with nothing replaced."""
        config = self.federation.config
        base = load_base(config.model.model_copy(update={"fused_gelu": False}), seed=config.seed)
        assert base.sha256 == self.federation.base.sha256
        return base

    def texts(self, client: str) -> list[dict[str, Any]]:
        """A client's tokenized texts: ``input_ids`` and ``labels``."""
        return [{k: f[k] for k in ("input_ids", "labels")} for f in self.federation.train_features(client)]

    def adapters(self, side: str = "both") -> dict[str, Tensor]:
        """Initial adapters of the "client" half, the "server" half (blocks counted from 0 there), or "both"."""
        if side == "both":
            return {**self._adapters["client"], **self._adapters["server"]}
        if side == "client":
            return dict(self._adapters["client"])
        prefix, cut = f"{self.stock.family.blocks}.", self.federation.plan.cut
        moved = {}
        for name, tensor in self._adapters["server"].items():
            layer, rest = name.removeprefix(prefix).split(".", 1)
            moved[f"{prefix}{int(layer) - cut}.{rest}"] = tensor
        return moved

    def half(self, side: str) -> nn.Module:
        """A copy of the stock "client" or "server" half, on the device."""
        view = client_half if side == "client" else server_half
        return copy.deepcopy(view(self.stock.model, self.stock.family, self.federation.plan.cut)).to(self.device)

    def head(self) -> Head:
        """A copy of the initial head."""
        return Head(copy.deepcopy(self._head.classifier), self.federation.data[GROUP].task.pooling)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
