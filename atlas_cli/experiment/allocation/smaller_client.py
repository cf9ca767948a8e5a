"""The keys of a client with which it would fit its device, each way with its predicted peak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from atlas_cli.config.schema.experiment import ClientSpec, ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.client_rows import most_rows
from atlas_cli.planning.cuts.remedies import SMALLER
from atlas_cli.planning.memory_assumptions import most_texts, tasks_of
from atlas_cli.planning.memory_of_plan import client_memory
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import full_shape
from atlas_cli.units import format_bytes_mib


def smaller_client(config: ExperimentConfig, spec: ClientSpec, memory: int) -> str:
    """The ways to make a client fit that change the fewest keys: "checkpointing: true (needs 84.1 MiB)".

    Empty if none do.

    Args:
        config: with a number for every rank.
        spec: of the client.
        memory: of its device, in bytes.
    """
    keys = [key for key in SMALLER if _may_change(config, spec, key)]
    if not keys or _peak(config, spec, keys) > memory:
        return ""
    for count in range(1, len(keys) + 1):
        peaks = {changed: _peak(config, spec, changed) for changed in combinations(keys, count)}
        if found := [f"{_text(changed)} (needs {format_bytes_mib(p)})" for changed, p in peaks.items() if p <= memory]:
            return " or ".join(found)
    return ""


def _may_change(config: ExperimentConfig, spec: ClientSpec, key: str) -> bool:
    if key == "checkpointing" and config.privacy.examples is not None:
        return False  # their gradients need what it drops
    changed = _changed(config, spec, [key])
    now = next(each for each in changed.expanded_clients() if each.name == spec.name)
    if now == spec or (key == "quantization" and spec.quantization != "none"):
        return False
    try:
        make_plan(changed)
    except ConfigError:  # the model cannot do it
        return False
    return True


def _peak(config: ExperimentConfig, spec: ClientSpec, keys: Iterable[str]) -> int:
    changed = _changed(config, spec, keys)
    plan = make_plan(changed)
    client, rows = plan.by_name[spec.name], most_rows(changed, plan.hf_config).get(spec.key)
    task, shape, texts = tasks_of(plan)[client.task_group], full_shape(config.training), most_texts(plan)
    return client_memory(plan, client, task, shape, rows, texts.get(spec.key, 0)).peak


def _changed(config: ExperimentConfig, spec: ClientSpec, keys: Iterable[str]) -> ExperimentConfig:
    name = spec.key.removeprefix("clients.")
    client = config.clients[name].model_copy(update={key: SMALLER[key] for key in keys})
    return config.model_copy(update={"clients": {**config.clients, name: client}})


def _text(keys: Sequence[str]) -> str:
    return " and ".join(f"{key}: {str(SMALLER[key]).lower()}" for key in keys)
