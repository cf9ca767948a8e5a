"""The manifest's facts about the model, the data and the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.corpora import corpus
from atlas_cli.data.rows import digest
from atlas_cli.federation.federation import Federation
from atlas_cli.packages import models as packaged
from atlas_cli.planning.devices.clock_notes import clock_notes
from atlas_cli.planning.devices.devices import client_devices, server_device
from atlas_cli.reports.summary import summarise
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.tasks._generated import text_figures
from atlas_cli.tasks.contract import count_examples

Facts = dict[str, object]


def model_facts(federation: Federation) -> Facts:
    """Name, initialisation, weights hash, cut and numbers of parameters."""
    plan, base = federation.plan, federation.base
    return {
        "name": base.name,
        "init": base.init,
        "fused_gelu": base.fused_gelu,
        "sha256": base.sha256,
        "quantization": base.quantization,
        "client_quantization": {
            c.name: c.format.quantization for c in plan.clients if c.format.quantization != base.quantization
        },
        "left_out": list(base.left_out),
        "n_parameters": plan.parameters["model"],
        "layers": plan.n_layers,
        "split_layer": plan.cut,
        **({"family_by_shape": base.family.by_shape} if base.family.by_shape else {}),
        "client_split_layers": {c.name: c.cut for c in plan.clients if c.cut != plan.cut},
        "client_half_parameters": plan.parameters["client half"],
        "server_half_parameters": plan.parameters["server half"],
    }


def licence_facts(config: ExperimentConfig) -> dict[str, str]:
    """The licences of the packaged model and corpora of an experiment, by their names."""
    model = packaged.MODELS.get(config.model.name)
    data = [group.data for group in config.task_groups.values()]
    corpora = {name for each in data if each.source == "corpus" for name in each.location}
    found = {} if model is None else {model.name: model.licence}
    return found | {name: corpus(name).licence for name in sorted(corpora)}


def data_facts(federation: Federation) -> dict[str, Facts]:
    """By task group: origin, content hash, sizes, classes, and the account of all rows."""
    return {
        name: {
            "origin": group.data.origin,
            "sha256": group.data.sha256,
            "train": sum(group.examples.values()),
            **{part: count_examples(features) for part, features in group.scored.items()},
            "local_test": sum(map(count_examples, group.local_test.values())),
            "sequences": {
                "train": sum(map(len, group.train.values())),
                **{part: len(features) for part, features in group.scored.items()},
            },
            "classes": group.data.classes,
            "metrics": {**group.task.better, **_directions(federation, name)},
            **{f"{part}_sha256": digest(rows) for part, rows in group.data.held_out.items()},
            "rows": {**group.data.account.record(), "unused": group.partition.unused},
            "column_values": group.partition.values,
            **_embedding_rows(federation, name),
            "fit": {part: asdict(fit) for part, fit in group.fits.items()},
            "notes": group.notes,
        }
        for name, group in federation.data.items()
    }


def _embedding_rows(federation: Federation, group: str) -> Facts:
    """How many rows of the token embedding the training texts of its clients need that do not hold its table."""
    tokens = {client: federation.tokens_of(client) for client in federation.members(group)}
    rows = {client: len(each) for client, each in tokens.items() if each is not None}
    return {"embedding_rows": rows} if rows else {}


def _directions(federation: Federation, group: str) -> Facts:
    """Of the figures of generated text."""
    found = federation.generated.get(group)
    return dict.fromkeys(text_figures(found.rule.metrics), "higher") if found is not None else {}


def best_facts(run: RunDirectory, folders: Mapping[str, Sequence[str]], last: int | None) -> dict[str, Facts]:
    """By task group, its best round so far, the part that it was chosen on, and the folders of its adapters.

    Args:
        folders: of the adapters of groups whose best round was chosen on a validation part.
        last: the last round that counts; None: the first, before training.
    """
    groups = summarise([row for row in run.read_lines("metrics.jsonl") if row["round"] <= (last or 0)], ())
    return {
        each.task_group: {
            "round": each.best_round,
            "chosen_on": each.chosen_on,
            "metric": each.metric,
            "better": each.better,
            "test": each.best,
            "validation": each.best_validation,
            "adapters": list(folders.get(each.task_group, ())),
        }
        for each in groups
        if each.best_round is not None
    }


def clock_facts(config: ExperimentConfig) -> Facts | None:
    """The settings of the virtual clock, with the figures of the clients' devices; None where no client has one."""
    if config.mode != "split-federated" or not client_devices(config):
        return None
    server = server_device(config)
    return {
        "server": {"device": server.name, **server.texts()},
        "server_assumed": config.server.device is None,
        "devices": {device.name: device.texts() for device in client_devices(config).values()},
        "notes": clock_notes(config),
    }


def device_name(device: torch.device) -> str:
    """The device as torch names it, with the model of a GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
