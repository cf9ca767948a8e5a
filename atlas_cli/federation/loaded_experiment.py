"""What an experiment loads before any party is built: data, frozen weights and device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import pad_token_id
from atlas_cli.data.prepare import PreparedGroup, prepare
from atlas_cli.errors import ConfigError
from atlas_cli.federation.client_state.new_client import needs_output
from atlas_cli.models.adapters.placement import adapted_names
from atlas_cli.models.files.tokenizer_file import require_vocabulary
from atlas_cli.models.frozen.cast import base_in_format
from atlas_cli.models.frozen.compile_blocks import compile_blocks, require_compiler
from atlas_cli.models.frozen.kernel_order import prepack_blocks
from atlas_cli.models.frozen.load import FrozenBase, load_base, load_tokenizer
from atlas_cli.models.frozen.quantized import require_quantization
from atlas_cli.models.frozen.row_embedding import by_rows
from atlas_cli.models.frozen.table_files import table_file
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.alike import Alike
from atlas_cli.planning.devices.devices import Device, client_devices
from atlas_cli.planning.memory.embedding_rows import distinct_tokens, held_tokens
from atlas_cli.planning.plan import ClientPlan, Plan
from atlas_cli.privacy.mechanisms._replacement import TokenReplacement
from atlas_cli.privacy.mechanisms.labels import CorrectedTask, randomise
from atlas_cli.privacy.token_replacement import replace_tokens, token_replacement
from atlas_cli.tasks.contract import BaseTask, Feature
from atlas_cli.units import parse_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class LoadedExperiment:
    """An experiment whose model and data are loaded. Nothing here changes during a run.

    Attributes:
        config: The config, with a number for every split layer and rank.
        plan: What follows from the config and the model's shapes.
        device: Where the run computes.
        tokenizer: The tokenizer that made the data's tokens.
        data: The examples of each task group.
        base: The frozen model, as the server has it.
        bases: The part of the frozen model that clients hold, by its format.
        replacement: What put other tokens into the place of those of ``data``, if a privacy mechanism does.
    """

    config: ExperimentConfig
    plan: Plan
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    data: dict[str, PreparedGroup]
    base: FrozenBase
    bases: Mapping[WeightFormat, FrozenBase]
    replacement: TokenReplacement | None

    @property
    def split(self) -> bool:
        """Whether clients and a server share the model; False in the unsplit baselines."""
        return self.config.mode == "split-federated"

    @cached_property
    def pad(self) -> int:
        """The token id that fills up a batch."""
        return pad_token_id(self.tokenizer)

    @property
    def padding(self) -> tuple[int | None, int]:
        """The number of tokens to whose multiple batches are padded, and the most tokens of an example."""
        return self.config.privacy.pad_lengths, self.config.training.max_length

    @property
    def group_names(self) -> list[str]:
        """Task groups in the order of the config."""
        return self.plan.group_names

    def members(self, group: str) -> list[str]:
        """Clients of a task group, in the order of the config; not to be written to."""
        return self.plan.names(group)

    def group_of(self, client: str) -> str:
        """The task group of a client."""
        return self.plan.by_name[client].task_group

    def in_order(self, clients: Iterable[str]) -> list[str]:
        """Some clients, each once, in the order of the config."""
        return self.plan.in_order(clients)

    def client_plans(self, clients: Iterable[str]) -> list[ClientPlan]:
        """The plans of some clients."""
        return [self.plan.by_name[client] for client in clients]

    @cached_property
    def devices(self) -> dict[str, Device]:
        """The simulated device of each client that names one."""
        return client_devices(self.config)

    def base_of(self, client: str) -> FrozenBase:
        """The part of the frozen model that a client holds."""
        return self.bases[self.plan.by_name[client].format]

    def tokens_of(self, client: str) -> torch.Tensor | None:
        """The tokens whose rows of the embedding a client holds, sorted; None if it holds the whole table."""
        return held_tokens(self.plan.by_name[client].format, self.train_features(client), self.pad)

    def train_features(self, client: str) -> Sequence[Feature]:
        """A client's training examples."""
        return self.data[self.group_of(client)].train[client]

    def batch_size(self, client: str) -> int:
        """Examples of a local step; a centralized learner takes the batches of all clients of its group at once."""
        size = self.config.training.batch_size
        if self.config.mode != "centralized":
            return size
        group = self.group_of(client)
        return size * self.config.group_sizes()[group]

    def with_ranks(self, plan: Plan) -> LoadedExperiment:
        """The same experiment with a plan that differs in adapter ranks alone."""
        return replace(self, config=plan.config, plan=plan)

    def training_tasks(self) -> dict[str, BaseTask]:
        """The task of each group; its loss knows how training labels were randomised, where they were."""
        labels = self.config.privacy.labels
        tasks = {name: group.task for name, group in self.data.items()}
        if labels is None or labels.correction != "forward":
            return tasks
        return {name: CorrectedTask(task, labels.epsilon) for name, task in tasks.items()}


def load_experiment(plan: Plan) -> LoadedExperiment:
    """Load the data and the model of a plan.

    Raises:
        ConfigError, ResourceError: what the config asks for cannot be had.
    """
    config = plan.config
    device = computing_device(config)
    set_threads(config)
    tokenizer = load_tokenizer(config.model)
    require_vocabulary(tokenizer, plan.hf_config.vocab_size)
    data = prepare(config, tokenizer, plan.family.causal)
    if config.mode == "centralized":
        plan, data = pool_clients(config, plan, data)
    if config.privacy.labels is not None:
        data = randomise(data, config.privacy.labels, config.seed)
    source = load_base(config.model, seed=config.seed, device=device)
    base = base_in_format(source, WeightFormat.of(config.model))
    replacement = token_replacement(config.privacy, base, tokenizer)
    if replacement is not None:
        data = replace_tokens(data, replacement, config.seed)
    bases = _client_bases(plan, source, base, causal=any(group.task.causal_only for group in data.values()))
    _make_fast(config, list({id(each): each for each in (base, *bases.values())}.values()))
    loaded = LoadedExperiment(config, plan, device, tokenizer, data, base, bases, replacement)
    return replace(loaded, bases=_with_embeddings(loaded))


def _client_bases(plan: Plan, source: FrozenBase, base: FrozenBase, causal: bool) -> dict[WeightFormat, FrozenBase]:
    """The part of the base that clients hold, by format: one copy for all clients whose format is not the base's.

    All have the whole table of embeddings. Copies are made from the ``source``, of which the base is one, too, where it
    is quantised.

    In a split they hold nothing from their split layer on; they hold the output embedding where they have the heads of
    ``causal`` tasks.
    """
    split = plan.config.mode == "split-federated"
    output = causal and needs_output(plan.config, plan.kinds)
    deepest: dict[WeightFormat, int] = {}
    for kind in plan.kinds:
        format = kind.format.with_table
        deepest[format] = max(kind.cut, deepest.get(format, 0))
    return {
        format: base if format == base.format else base_in_format(source, format, cut if split else None, output, base)
        for format, cut in deepest.items()
    }


def _with_embeddings(loaded: LoadedExperiment) -> dict[WeightFormat, FrozenBase]:
    """The bases in the formats of clients: where that is by the row, with the rows of the texts of its clients."""
    clients: dict[WeightFormat, list[Sequence[str]]] = {}
    for place, kind in enumerate(loaded.plan.kinds):
        clients.setdefault(kind.format, []).append(loaded.plan.clients.names_of(place))
    bases = {format: loaded.bases[format.with_table] for format in clients}
    if by_row := [format for format in clients if format.embedding == "rows"]:
        table = table_file(loaded.config.model, loaded.base)
        for format in by_row:
            features = chain.from_iterable(map(loaded.train_features, chain.from_iterable(clients[format])))
            bases[format] = by_rows(bases[format], distinct_tokens(features, loaded.pad), table)
    return bases


def _make_fast(config: ExperimentConfig, bases: list[FrozenBase]) -> None:
    """Compile the frozen blocks, or copy their weights into the order of the kernels, as ``engine`` asks."""
    if config.engine.compile:
        for base in bases:
            compile_blocks(base, adapted_names(base.model, base.family, config.lora.targets))
    elif config.engine.prepack is not None:
        prepack_blocks(bases, parse_bytes(config.engine.prepack))


def pool_clients(
    config: ExperimentConfig, plan: Plan, data: dict[str, PreparedGroup]
) -> tuple[Plan, dict[str, PreparedGroup]]:
    """For mode ``centralized``: in place of each group's clients one with their data and the largest of their ranks."""
    learners = tuple(
        ClientPlan(
            f"{name}-pooled",
            name,
            max(client.cut for client in plan.members(name)),
            plan.group_ranks(name),
            f"task_groups.{name}",
            format=WeightFormat.of(config.model),
            local_steps=config.training.local_steps,
        )
        for name in config.task_groups
    )
    together = {}
    for learner in learners:
        group = data[learner.task_group]
        together[learner.task_group] = replace(
            group,
            train={learner.name: [f for features in group.train.values() for f in features]},
            local_test={learner.name: [f for features in group.local_test.values() for f in features]},
        )
    return replace(plan, clients=Alike.single(learners)), together


def computing_device(config: ExperimentConfig) -> torch.device:
    """The device of a run, after a check that this machine has it, and what the run needs there.

    Raises:
        ConfigError: no such device, no compiler for it, or no quantised weights on it.
    """
    device = _named_device(config.device)
    require_quantization(config.model.quantization, device, "model.quantization")
    for name, client in config.clients.items():
        require_quantization(client.quantization or "none", device, f"clients.{name}.quantization")
    if config.engine.compile:
        require_compiler(device)
    return device


def set_threads(config: ExperimentConfig) -> None:
    """Set the threads of torch in this process of a run; by default torch decides.

    With several processes on a machine each gets one thread, as together they would otherwise use more threads than
    there are cores.
    """
    threads = 1 if config.threads is None and config.engine.name == "ray" else config.threads
    if threads is not None:
        torch.set_num_threads(threads)


def _named_device(name: str) -> torch.device:
    """The device of a name in a config; "auto" takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{name!r} is no device; use auto, cpu, cuda, cuda:1 or mps", key="device") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type):
        raise ConfigError(f"this machine has no {device.type} device; use device: auto or cpu", key="device")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} GPUs, counted from 0, got {name}", key="device"
        )
    return device
