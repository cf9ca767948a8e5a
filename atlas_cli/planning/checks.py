"""What a config asks for that its model, its tasks or its aggregation method cannot do: refused, with the key."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn
from transformers import PreTrainedConfig

from atlas_cli import discovery
from atlas_cli.aggregation.checks import require_tensors, term_of, told_extras
from atlas_cli.aggregation.contract import Layer
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import AdapterForm
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.frozen.rotary import depends_on_length, frequencies_change_at, positions_to_write
from atlas_cli.planning.devices.devices import check_times, devices_by_key, server_device
from atlas_cli.planning.method import method_of
from atlas_cli.planning.method_checks import check_method
from atlas_cli.planning.wire_checks import check_wire
from atlas_cli.tasks import load, require_metric, sequence_classification
from atlas_cli.tasks._generated import require_text_metrics
from atlas_cli.tasks.contract import BaseTask


def check_before_shapes(config: ExperimentConfig, hf_config: PreTrainedConfig, family: BaseFamily) -> None:
    """Check what needs no knowledge of the model's layers.

    Raises:
        ConfigError: a task, a length, a device, or what the aggregation method is asked for, is not possible.
    """
    _check_compiled(config)
    _check_tasks(config, hf_config.model_type, family)
    _check_length(config, hf_config, family)
    _check_rotary(config, hf_config)
    _check_generated(config, hf_config, family)
    check_method(config, method_of(config))
    check_wire(config, method_of(config))
    devices_by_key(config), server_device(config)  # every device that is named must be known
    check_times(config)


def check_example_noise(
    config: ExperimentConfig, hf_config: PreTrainedConfig, family: BaseFamily, names: Collection[str]
) -> None:
    """Refuse DP-SGD where an adapter sees what is of no example: relative positions, once a batch.

    Args:
        names: the adapted layers of a block.

    Raises:
        ConfigError: such a layer is adapted; names the others.
    """
    of_positions = family.stages[0][:2] if family.relative_positions(hf_config) else ()
    if config.privacy.examples is not None and set(names).intersection(of_positions):
        others = [name for stage in family.stages for name in stage if name not in of_positions]
        raise ConfigError(
            f"clips the gradient of each text by itself, and {' and '.join(of_positions)} of {hf_config.model_type} "
            f"make relative positions for all texts of a batch together; take lora.targets among {', '.join(others)}",
            key="privacy.examples",
        )


def check_frozen(
    config: ExperimentConfig, hf_config: PreTrainedConfig, cuts: Mapping[str, int], top: int | None
) -> None:
    """Refuse frozen clients where nothing learns of their texts, or where what they send of a text may change.

    Args:
        cuts: the blocks of each client; ``top``: the highest block that the server has an adapter on, None without any.

    Raises:
        ConfigError: names the first such client.
    """
    method, length = method_of(config), config.training.max_length
    for spec in config.client_kinds():
        if spec.learns != "frozen":
            continue
        key, cut = f"{spec.key}.learns", cuts[spec.name]
        if top is None or top < cut:
            deep = ", and a smaller split_layer" if cut == int(hf_config.num_hidden_layers) else ""
            raise ConfigError(
                "frozen leaves all training to the server, which has no adapter on the blocks above this client; set "
                f"server.rank to 1 or more{deep}",
                key=key,
            )
        if method.CHANGES_BASE:
            raise ConfigError(
                f"frozen keeps a client's weights, and {config.aggregation.method} changes them; use another "
                "aggregation.method",
                key=key,
            )
        if depends_on_length(hf_config, length):
            raise ConfigError(
                f"frozen sends each text once, and with texts of more than {frequencies_change_at(hf_config)} tokens "
                "what this model computes of a text depends on the longest of its batch; set training.max_length to "
                "that",
                key=key,
            )


def _check_compiled(config: ExperimentConfig) -> None:
    rounded = [config.model.quantization, *(client.quantization for client in config.clients.values())]
    if config.engine.compile and any(each not in (None, "none") for each in rounded):
        raise ConfigError("quantised weights are not compiled; set false, or quantization: none", key="engine.compile")


def check_server_memory(config: ExperimentConfig, features: Collection[tuple[int, int]]) -> None:
    """Check that every layer can be merged within ``aggregation.server_memory``.

    Args:
        features: (d_in, d_out) of the layers.

    Raises:
        ConfigError: a layer cannot; names the first.
    """
    method = method_of(config)
    for d_in, d_out in dict.fromkeys(features):
        method.require_room(d_in, d_out)


def check_hooks(
    config: ExperimentConfig,
    form: AdapterForm,
    features: Mapping[str, tuple[int, int]],
    ranks: Iterable[Mapping[str, int]],
) -> None:
    """Ask the method what it is asked before and after a first delivery, for adapters of these ranks.

    Raises:
        PluginError: an answer that its contract does not allow.
    """
    method = method_of(config)
    term_of(method)
    for each in {tuple(sorted(r.items())): r for r in ranks}.values():
        layers = {path: Layer(rank, *form.sizes(*features[path])) for path, rank in each.items()}
        told, extras = told_extras(method, layers), method.extras_for(next(iter(config.task_groups)), layers)
        require_tensors(method, "extras_for", extras, told.down, "down")


def check_clusters(config: ExperimentConfig, cuts: Collection[int]) -> None:
    """Refuse clusters whose clients could not be merged.

    Raises:
        ConfigError: there are several split layers, or the method cannot continue with another group's values.
    """
    rule, method, name = config.clustering, method_of(config), config.aggregation.method
    if rule is None or rule.by == "oracle":
        return
    if len(cuts) > 1:
        raise ConfigError(
            "clients of any cut may come into one cluster, and clusters need one split layer; give all clients one, or "
            "use by: oracle",
            key="clustering.by",
        )
    if rule.every is not None and method.SENT and (method.CHANGES_BASE or not method.GROUP_ADAPTER):
        raise ConfigError(
            f"{name} keeps what clients learned in more than the adapters of a cluster, which cannot be taken along to "
            "another cluster; remove it to cluster once, or use another aggregation.method",
            key="clustering.every",
        )


def check_embeddings(config: ExperimentConfig, base: nn.Module, lm_head: nn.Module | None) -> None:
    """Refuse rows of a table that is a client's output embedding, too, which needs all of them.

    Raises:
        ConfigError: names the first such client.
    """
    for spec in config.client_kinds():
        task = config.task_groups[spec.task_group].task
        has_head = config.training.labels == "client" or spec.learns == "auxiliary"
        if spec.embedding == "table" or not has_head or not load(task).causal_only:
            continue
        table = base.get_input_embeddings().weight  # type: ignore[operator]
        if lm_head is not None and any(p is table for p in lm_head.parameters()):
            own = spec.learns == "auxiliary"
            cause = "learns: auxiliary" if own else "training.labels: client"
            instead = "another way to learn" if own else "labels: server"
            raise ConfigError(
                f"with {cause}, clients of {task} have the output embedding, which in {config.model.name} is the same "
                f"table and is needed whole; use embedding: table, or {instead}",
                key=f"{spec.key}.embedding",
            )


def _check_tasks(config: ExperimentConfig, model_type: str, family: BaseFamily) -> None:
    """Check that the model can run every task, and that examples have a class where labels are randomised."""
    for name, group in config.task_groups.items():
        task = load(group.task, key=f"task_groups.{name}.task")
        if task.causal_only and not family.causal:
            raise ConfigError(
                f"{group.task} needs a decoder, and {model_type} is an encoder; use another model, or one of "
                + ", ".join(n for n in discovery.own_names("tasks") if not load(n).causal_only),
                key=f"task_groups.{name}.task",
            )
        if group.metric is not None:
            require_metric(task, group.task, group.metric, f"task_groups.{name}.metric")
        if config.privacy.examples is not None and task.together:
            raise ConfigError(
                f"clips the gradient of each text by itself, and the loss of {group.task} holds several against each"
                " other; remove it",
                key="privacy.examples",
            )
        words = config.privacy.replaces_tokens()
        if words is not None and task.causal_only:
            raise ConfigError(
                f"replaces the tokens of a text, and the labels of {group.task} are that text; remove it",
                key=f"privacy.{words}",
            )
        if config.privacy.denoise is not None and task.causal_only:
            raise ConfigError(
                f"is for tasks with a head of their own, and {group.task} has the language model's; remove it",
                key="privacy.denoise",
            )
        if config.privacy.labels is not None:
            _check_randomised(group.task, task, config.privacy.labels.correction)


def _check_randomised(name: str, task: type[BaseTask], correction: str) -> None:
    """Check that examples have one class each, so labels can be randomised, and a loss that can be corrected."""
    if not task.one_class:
        raise ConfigError(
            f"randomises one class an example, and an example of {name} has none or several; remove it",
            key="privacy.labels",
        )
    known = sequence_classification.Task
    if correction == "forward" and (task.loss, task.build_head) != (known.loss, known.build_head):
        raise ConfigError(
            f"corrects the loss of sequence-classification, and {name} has another loss or head; use none",
            key="privacy.labels.correction",
        )


def _check_length(config: ExperimentConfig, hf_config: PreTrainedConfig, family: BaseFamily) -> None:
    positions = family.positions(hf_config)
    if positions is not None and config.training.max_length > positions:
        raise ConfigError(
            f"{config.training.max_length} tokens are more than the model's {positions} positions; "
            f"set it to {positions} or less",
            key="training.max_length",
        )


def _check_rotary(config: ExperimentConfig, hf_config: PreTrainedConfig) -> None:
    """Check that texts are computed independently if a mechanism protects single texts or changes padding."""
    mechanism = config.privacy.in_a_step() or ("pad_lengths" if config.privacy.pad_lengths else None)
    if mechanism and depends_on_length(hf_config, config.training.max_length):
        length = frequencies_change_at(hf_config)
        raise ConfigError(
            f"with texts of more than {length} tokens this model's rotary positions depend on the longest "
            f"text of a batch, so that privacy.{mechanism} would not do what it says; set it to {length}",
            key="training.max_length",
        )


def _check_generated(config: ExperimentConfig, hf_config: PreTrainedConfig, family: BaseFamily) -> None:
    """Check that there are texts to compare what is generated with, positions for it, and what compares it."""
    if (rule := config.evaluation.generate) is None:
        return
    tasks = [load(group.task) for group in config.task_groups.values()]
    if all(task.reference is BaseTask.reference for task in tasks):
        raise ConfigError(
            "no task group has texts that should be generated; those of tasks instruction and chat have",
            key="evaluation.generate",
        )
    require_text_metrics(rule.metrics, "evaluation.generate.metrics")
    longest = config.training.max_length
    positions, what = positions_to_write(hf_config, family.positions(hf_config))
    if positions is not None and longest + rule.max_new_tokens > positions:
        raise ConfigError(
            f"after a prompt of {longest} tokens (training.max_length) {rule.max_new_tokens} new ones exceed the"
            f" model's {positions} {what}; set it to {max(positions - longest, 1)} or less, or lower"
            " training.max_length",
            key="evaluation.generate.max_new_tokens",
        )
