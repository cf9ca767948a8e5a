"""From a config to a federation ready to train: base, data, clients, server, aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import pad_token_id
from atlas_cli.data.prepare import PreparedGroup, prepare
from atlas_cli.errors import ConfigError
from atlas_cli.federation.centralized import pooled
from atlas_cli.federation.client_state.member import Member, weight_of
from atlas_cli.federation.client_state.new_client import adapters_of, heads_on_clients, new_client
from atlas_cli.federation.client_state.offloaded import Party, exchanged, offload_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.prefix_setup import first_changing, give_prefix, prefix_cache_of
from atlas_cli.federation.protection import Protection
from atlas_cli.federation.warm_start import start_from
from atlas_cli.models.adapters.placement import adapted_names
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.files.tokenizer_file import require_vocabulary
from atlas_cli.models.frozen.cast import stored_as
from atlas_cli.models.frozen.compiled import compile_blocks, require_compiler
from atlas_cli.models.frozen.kernel_order import prepack_blocks
from atlas_cli.models.frozen.load import FrozenBase, load_base, load_tokenizer
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import Plan, make_plan
from atlas_cli.privacy.mechanisms.labels import CorrectedTask, randomise
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.units import parse_bytes


def build(config: ExperimentConfig, plan: Plan | None = None) -> Federation:
    """Load the model and the data of a config and set up all parties.

    Raises:
        ConfigError, ResourceError: what the config asks for cannot be had.
    """
    plan = plan or make_plan(config)
    config = plan.config
    device = computing_device(config)
    if (threads := _threads(config)) is not None:
        torch.set_num_threads(threads)
    tokenizer = load_tokenizer(config.model)
    require_vocabulary(tokenizer, plan.hf_config.vocab_size)
    data = prepare(config, tokenizer, plan.family.causal)
    if config.mode == "centralized":
        plan, data = pooled(config, plan, data)
    if config.privacy.labels is not None:
        data = randomise(data, config.privacy.labels, config.seed)
    base = load_base(config.model, seed=config.seed, device=device)
    causal = any(group.task.causal_only for group in data.values())
    split = config.mode == "split-federated"
    bases = client_bases(plan, base, split, output=heads_on_clients(config) and causal)
    held = list({id(b): b for b in (base, *bases.values())}.values())
    if config.engine.compile:
        for each in held:
            compile_blocks(each, adapted_names(each.model, each.family, config.lora.targets))
    elif config.engine.prepack is not None:
        prepack_blocks(held, parse_bytes(config.engine.prepack))
    federation = assemble(config, plan, base, bases, data, tokenizer, device)
    federation.protection = protection_of(federation)
    for name, group in config.task_groups.items():
        if group.adapter is not None:
            federation.warm_starts[name] = start_from(federation, name, group.adapter)
            federation.aggregator.give_server(name)
    return federation


def assemble(
    config: ExperimentConfig,
    plan: Plan,
    base: FrozenBase,
    bases: Mapping[str, FrozenBase],
    data: dict[str, PreparedGroup],
    tokenizer: Any,
    device: torch.device,
) -> Federation:
    """All parties of an experiment before its first round, on a base and data that are loaded; no ``protection``."""
    tasks = {name: training_task(config, group.task) for name, group in data.items()}
    split = config.mode == "split-federated"
    heads = {name: build_head(base, task, config.seed, name, device) for name, task in tasks.items()}
    server = (
        SplitServer(
            base=base,
            tasks=tasks,
            split_layer=plan.cut,
            device=device,
            rank=config.server.rank,
            first_layers={name: min(c.cut for c in plan.members(name)) for name in tasks},
            lora=config.lora,
            training=config.training,
            seed=config.seed,
        )
        if split
        else None
    )
    cache, lowest = prefix_cache_of(config), first_changing(config, plan)

    def party(name: str) -> Party:
        planned = plan.by_name[name]
        task = tasks[planned.task_group]
        made = new_client(config, planned, bases[planned.dtype], task, plan.above(planned.cut), device)
        give_prefix(cache, config, made, lowest[name])
        return made

    contested = {name: plan.contested(name).keys() if split else set() for name in config.task_groups}
    served = {
        (c.task_group, c.cut): frozenset(p for p in contested[c.task_group] if layer_of(p, plan.family) >= c.cut)
        for c in {(c.task_group, c.cut): c for c in plan.clients}.values()
    }
    members: dict[str, Member] = {}
    offload = offload_of(config, party, members)
    clients: dict[str, Party] = {}
    alike: dict[object, tuple[str, Party]] = {}  # clients that are away start as the first of their kind
    for c in plan.clients:
        kind = c.task_group, c.cut, c.dtype, tuple(c.ranks.items())
        first, made = (c.name, party(c.name)) if offload is None else alike.get(kind) or (c.name, party(c.name))
        weight = weight_of(config, c, data[c.task_group])
        members[c.name] = Member(
            c.task_group, weight, exchanged(made), made.head, served[c.task_group, c.cut], term=made.term
        )
        if offload is None:
            clients[c.name] = made
        else:
            alike[kind] = first, made
            offload.start(c.name, made, first)
    groups = {
        name: adapters_of(
            config, base, plan.group_ranks(name) if split else plan.server_ranks(name) | plan.group_ranks(name), device
        )
        for name in config.task_groups
    }
    aggregator = Aggregator(
        method_of(config),
        members,
        groups,
        heads if heads_on_clients(config) else {},
        plan.features,
        server.groups if server is not None else None,
        keep_errors=config.aggregation.error_ledger,
    )
    pad = pad_token_id(tokenizer)
    evaluator = Evaluator(base, plan.cut, config.evaluation.batch_size, pad, device)
    parties = clients if offload is None else offload
    return Federation(
        config,
        plan,
        base,
        data,
        parties,
        server,
        aggregator,
        evaluator,
        pad,
        device,
        bases,
        offload,
        prefix_cache=cache,
        tokenizer=tokenizer,
    )


def protection_of(federation: Federation) -> Protection:
    """The mechanisms that a federation's config asks for, put into its parties."""
    given = federation
    return Protection(
        given.config,
        given.plan,
        given.clients,
        given.server,
        given.aggregator,
        given.evaluator,
        given.train_features,
        given.batch_size,
    )


def anew(federation: Federation) -> Federation:
    """The parties of a federation as they were before its first round, apart from it; base and data are shared."""
    given = federation
    return assemble(given.config, given.plan, given.base, given.bases, given.data, given.tokenizer, given.device)


def client_bases(plan: Plan, base: FrozenBase, split: bool, output: bool) -> dict[str, FrozenBase]:
    """What clients hold of the base, by dtype: one copy for all clients of a dtype that is not the base's.

    Args:
        split: whether clients hold nothing from their split layer on.
        output: whether they hold the output embedding.
    """
    deepest: dict[str, int] = {}
    for client in plan.clients:
        deepest[client.dtype] = max(client.cut, deepest.get(client.dtype, 0))
    return {
        dtype: stored_as(base, getattr(torch, dtype), cut if split else None, output) for dtype, cut in deepest.items()
    }


def computing_device(config: ExperimentConfig) -> torch.device:
    """Where a run computes, once this machine is known to have what the config asks of it.

    Raises:
        ConfigError: no such device, or no compiler for it.
    """
    device = pick_device(config.device)
    if config.engine.compile:
        require_compiler(device)
    return device


def pick_device(name: str) -> torch.device:
    """The device of a config; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: a device that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[device.type]:
        raise ConfigError(f"this machine has no {device.type} device; use device: auto or cpu", key="device")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} GPUs, counted from 0, got {name}", key="device"
        )
    return device


def training_task(config: ExperimentConfig, task: BaseTask) -> BaseTask:
    """A task whose loss knows how training labels were randomised, where they were."""
    labels = config.privacy.labels
    corrected = labels is not None and labels.correction == "forward"
    return CorrectedTask(task, labels.epsilon) if labels is not None and corrected else task


def _threads(config: ExperimentConfig) -> int | None:
    """Threads of torch in every process of a run; None: torch's own choice.

    With several processes a machine, one each: those of all together would otherwise be many more than it has cores.
    """
    return 1 if config.threads is None and config.engine.name == "ray" else config.threads
