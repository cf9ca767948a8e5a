"""Plans of published settings: a model that atlas knows by name, on the meta device, so that no weights are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.memory_assumptions import tasks_of
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan, Plan, make_plan
from atlas_cli.planning.round_bytes import RoundMessages, full_shape, round_messages
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.messages import Adapters, BaseWeights


def plan(
    model: str,
    split_layer: int,
    clients: Mapping[str, Mapping[str, Any]],
    task: str = "sequence-classification",
    config: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Plan:
    """The plan of one task group.

    Args:
        config: changes to the model's sizes.
        keys: further sections of the config.
    """
    columns = {} if task == "causal-lm" else {"text": "text", "label": "label"}
    whole = {
        "name": "published",
        "model": {"name": model, "split_layer": split_layer, "init": "random", "config": dict(config or {})},
        "server": {"rank": 0},
        "task_groups": {"g": {"task": task, "data": {"files": "data.csv", **columns}}},
        "clients": {name: {"task_group": "g", **client} for name, client in clients.items()},
    }
    return make_plan(ExperimentConfig.model_validate({**whole, **keys}))


def task_of(planned: Plan) -> BaseTask:
    """The task of its group, of two classes."""
    return tasks_of(planned)["g"]


def messages(planned: Plan, client: ClientPlan | None = None) -> RoundMessages:
    """What a client of it, the first by default, exchanges in a round with full batches of the longest texts."""
    return round_messages(planned, client or planned.clients[0], task_of(planned), full_shape(planned.config.training))


def adapter_bytes(planned: Plan, way: str = "sent", merge: int = 1) -> int:
    """Bytes of the numbers of the first client's adapter that are "sent" for a merge, or "delivered" after it."""
    parts = getattr(method_of(planned.config).parts_of(merge), way)
    return Adapters.closed_form(planned.clients[0].ranks, planned.features, parts)


def setup_bytes(planned: Plan) -> int:
    """Bytes of the frozen weights that the first client is sent before it can start."""
    client = planned.clients[0]
    return BaseWeights("", planned.setup_tensors[client.cut, client.format]).payload_bytes
