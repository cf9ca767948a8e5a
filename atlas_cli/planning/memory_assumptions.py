"""The assumptions of a memory prediction: class names, and the notes of its report."""

from __future__ import annotations

from collections.abc import Iterable

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.read import read_group
from atlas_cli.errors import AtlasError
from atlas_cli.planning.client_rows import most_by_entry, read_tokens
from atlas_cli.planning.memory_of_plan import build_task_of
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks.contract import BaseTask


def read_classes(plan: Plan) -> tuple[dict[str, list[str]], list[str]]:
    """Class names by task group, from the config or the data; if neither has them, two are assumed and noted."""
    found: dict[str, list[str]] = {}
    notes = []
    for name, group in plan.config.task_groups.items():
        if not build_task(group.task, ["a", "b"]).has_classes:
            continue
        try:
            holdout = plan.config.holdout
            found[name] = group.classes or read_group(name, group, plan.config.rows_seed, holdout).classes
        except AtlasError as error:
            found[name] = ["0", "1"]
            notes.append(f"task group {name}: two classes assumed, since its data cannot be read ({error})")
    return found, notes


def read_texts(plan: Plan, kinds: Iterable[ClientPlan] | None = None) -> tuple[dict[str, int], list[str]]:
    """The tokens of the training texts of each client whose codecs keep something of texts.

    Where texts cannot be read there are none, and a note.

    Args:
        kinds: in place of the plan's, each as it may be; there may be several of an entry of the config.
    """
    keys = {kind.key for kind in (plan.kinds if kinds is None else kinds) if plan.codecs(kind).numbered}
    keeping = {name: kind.task_group for kind in plan.kinds if kind.key in keys for name in plan.names_of(kind)}
    return read_tokens(plan.config, plan.hf_config, keeping)


def most_texts(plan: Plan) -> dict[str, int]:
    """By place of a client's template in the config, the most such tokens of a client of it."""
    return most_by_entry(plan.config, read_texts(plan)[0])


def tasks_of(plan: Plan) -> dict[str, BaseTask]:
    """The task of each group; data is read for its classes only where clients have the heads, which memory is for."""
    classes = read_classes(plan)[0] if _clients_have_heads(plan.config) else {}
    return {group: build_task_of(plan, group, classes.get(group, ["0", "1"])) for group in plan.config.task_groups}


def notes_on(plan: Plan) -> list[str]:
    """The notes that a reader of the figures needs."""
    config, training = plan.config, plan.config.training
    notes = [
        f"assumed: batches of {training.batch_size} examples of {training.max_length} tokens, the largest that the "
        "config allows (training.batch_size, training.max_length)"
    ]
    if getattr(plan.hf_config, "activation_function", None) == "gelu_new":
        fused = config.model.fused_gelu
        notes.append(
            "the tanh GELU runs as one operation that saves one tensor (model.fused_gelu: true; gelu_new saves four)"
            if fused
            else "gelu_new saves four tensors; model.fused_gelu: true would save one, for the same function"
        )
    notes += _of_some("activation checkpointing", plan, [kind for kind in plan.kinds if kind.checkpointing])
    for quantization in dict.fromkeys(kind.format.quantization for kind in plan.kinds):
        own = [kind for kind in plan.kinds if kind.format.quantization == quantization != "none"]
        notes += _of_some(f"linear layers of the blocks in {quantization}, each made dense for its product", plan, own)
    if (quantization := config.model.quantization) != "none" and config.mode == "split-federated":
        notes.append(f"linear layers of the server's blocks in {quantization}, each made dense for its product")
    by_row = [kind for kind in plan.kinds if kind.format.embedding == "rows"]
    notes += _of_some("rows of the token embedding for the tokens of its training texts, not the table", plan, by_row)
    for dtype in dict.fromkeys(kind.dtype for kind in plan.kinds if kind.dtype != config.model.dtype):
        own = [kind for kind in plan.kinds if kind.dtype == dtype]
        notes += _of_some(f"frozen weights and activations in {dtype} (model.dtype: {config.model.dtype})", plan, own)
    if any(spec.rank == "auto" for spec in config.client_kinds()):
        notes.append("rank: auto is counted at allocation.r_min; atlas ranks shows what each client will get")
        notes += beside_ranks(config)
    return [*notes, *unpredicted(config)]


def unpredicted(config: ExperimentConfig) -> list[str]:
    """The mechanisms of ``privacy`` whose memory in a client's step is not predicted."""
    size, privacy = config.training.batch_size, config.privacy
    left_out = {
        "examples": f"gradients of single examples, {size} times all that it trains, and what they are made of",
        "nopeek": "distances between the tokens of a batch",
        "activations": "clipped and noisy copies of the activations",
        "mask_gradients": "a noisy copy of the gradients",
    }
    found = [f"privacy.{name} ({what})" for name, what in left_out.items() if getattr(privacy, name)]
    return [f"not in the predicted peak of a client: {each}" for each in found]


def beside_ranks(config: ExperimentConfig) -> list[str]:
    """What ``rank: auto`` does not know of a method that selects what a client trains."""
    auto = any(spec.rank == "auto" for spec in config.client_kinds())
    if not auto or not method_of(config).SELECTS:
        return []
    return [
        f"with {config.aggregation.method} a client holds the components of its group's largest rank beside its own, "
        "which rank: auto does not count as it gives out ranks; the peaks that atlas ranks shows do, and a run is "
        "refused where one is above the device's memory: then lower allocation.r_max"
    ]


def waits_for_data(config: ExperimentConfig) -> bool:
    """Whether the clients' memory depends on the data, as the size of their heads depends on the number of classes."""
    groups = config.task_groups.values()
    unknown = any(not group.classes and build_task(group.task, ["a", "b"]).has_classes for group in groups)
    return _clients_have_heads(config) and unknown


def cause_of_heads(config: ExperimentConfig) -> str:
    """The key by which clients of a split have heads; empty where none has one."""
    if config.training.labels == "client":
        return "training.labels: client"
    return next((f"clients.{n}.learns: auxiliary" for n, c in config.clients.items() if c.learns == "auxiliary"), "")


def _clients_have_heads(config: ExperimentConfig) -> bool:
    return bool(cause_of_heads(config))


def _of_some(what: str, plan: Plan, kinds: list[ClientPlan]) -> list[str]:
    """What is so of all clients of some entries, of which the first is named."""
    if not kinds:
        return []
    more = sum(len(plan.names_of(kind)) for kind in kinds) - 1
    return [f"{what}: {kinds[0].name}" + (f" and {more:,} more" if more else "")]
