"""From a config to a federation that is ready to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from itertools import islice

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.cycle_collection import without_collection
from atlas_cli.federation.client_state.coding import Coding
from atlas_cli.federation.client_state.kept_texts import kept_texts_of
from atlas_cli.federation.client_state.member import Member, Standing, weights_of
from atlas_cli.federation.client_state.new_client import head_of_client, new_client
from atlas_cli.federation.client_state.offloaded import offload_of
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.loaded_experiment import LoadedExperiment, load_experiment
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.prefix_cache import PrefixCache
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.federation.prefix_setup import give_prefix, lowest_changing_blocks, prefix_cache_of
from atlas_cli.federation.protection import Protection
from atlas_cli.federation.round_time import work_of_pass
from atlas_cli.federation.under_way import UnderWay
from atlas_cli.federation.virtual_clock import VirtualClock
from atlas_cli.federation.warm_start import start_from
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.cuda_graphs.graphed_passes import GraphedPasses, graphed_passes
from atlas_cli.planning.devices.devices import traced_client
from atlas_cli.planning.method import merge_optimizer_of, method_of
from atlas_cli.planning.plan import Plan, make_plan
from atlas_cli.storage.tensor_store import TensorStore


def build(config: ExperimentConfig, plan: Plan | None = None) -> Federation:
    """Load the model and the data of a config, and make all parties, as they are before any training.

    Args:
        config: the ``config`` of what ``load_config`` gives.
        plan: the result of ``make_plan`` for the config, if the caller has it.

    Raises:
        ConfigError, ResourceError: what the config asks for cannot be had.

    Example:
        >>> federation = build(load_config("offline").config)
        >>> [(client.name, client.cut) for client in federation.plan.clients]
        [('phones-1', 2), ('phones-2', 2), ('laptop-1', 2)]
    """
    return make_federation(load_experiment(plan or make_plan(config)))


def build_for_audit(config: ExperimentConfig) -> Federation:
    """As ``build``, with all clients in memory and no cached prefix, as attacks need them; neither changes a figure."""
    engine = config.engine.model_copy(update={"offload": None, "prefix_cache": None, "kept_texts": None})
    return build(config.model_copy(update={"engine": engine}))


def make_federation(loaded: LoadedExperiment) -> Federation:
    """All parties of a loaded experiment, ready to train.

    Raises:
        ConfigError, ResourceError: what the config asks for cannot be had.
    """
    federation = assemble(loaded)
    federation.protection = protection_of(federation)
    if federation.config.training.asynchrony is not None:
        work_of = partial(work_of_pass, federation)
        federation.under_way = UnderWay(federation.config, federation.aggregator, work_of)
    if traced_client(federation.config) is not None:
        federation.clock = VirtualClock(federation.devices)
    start_from_adapters(federation)
    return federation


def assemble(loaded: LoadedExperiment) -> Federation:
    """All parties in their state before the first round, without ``protection`` and without adapters to start from.

    Given a federation, all parties that are not passed are built anew; base and data are shared.
    """
    server = make_server(loaded)
    cache, texts = prefix_cache_of(loaded.config), kept_texts_of(loaded.config)
    clients, members = make_clients(loaded, cache, texts)
    return Federation(
        **{field.name: getattr(loaded, field.name) for field in fields(LoadedExperiment)},
        clients=clients,
        server=server,
        aggregator=make_aggregator(loaded, server, members),
        evaluator=Evaluator(
            loaded.base,
            loaded.plan.cut,
            loaded.config.evaluation.batch_size,
            loaded.pad,
            loaded.device,
            loaded.config.engine.compile,
        ),
        prefix_cache=cache,
        kept_texts=texts,
        graphs=_graphs(loaded),
    )


def make_server(loaded: LoadedExperiment) -> SplitServer:
    """The server with the blocks above the cut, and adapters and a head for each task group.

    Without a split the server takes no part in local steps, and has none of these.
    """
    config, plan = loaded.config, loaded.plan
    tasks = loaded.training_tasks() if loaded.split else {}
    first_layers = {name: min(kind.cut for kind in plan.kinds_of(name)) for name in tasks}
    setting = Setting.of(config, loaded.device)
    server = SplitServer(loaded.base, plan.cut, tasks, setting, config.server.rank, first_layers)
    server.graphs = _graphs(loaded)
    return server


def _graphs(loaded: LoadedExperiment) -> GraphedPasses | None:
    """Those of one party, where the config asks for some and the device has them."""
    return graphed_passes(loaded.device) if loaded.config.engine.cuda_graphs else None


@without_collection()
def make_clients(
    loaded: LoadedExperiment, cache: PrefixCache | None, texts: TensorStore | None
) -> tuple[Mapping[str, Party], dict[str, Member]]:
    """All clients by name, and the aggregator's record of each.

    With ``engine.offload`` one client of each kind is built, and clients that start like it share its state.
    """
    make, served, method = _client_maker(loaded, cache, texts), _served(loaded), method_of(loaded.config)
    config, plan, members = loaded.config, loaded.plan, dict[str, Member]()
    offload = offload_of(config, make, members)
    everyone, clients = iter(plan.clients.names), dict[str, Party]()
    starts: dict[object, Standing] = {}
    for place, first in enumerate(plan.kinds):  # an entry of the config, whose clients differ in name alone
        group, count = loaded.data[first.task_group], len(plan.clients.names_of(place))
        layers, compact = served[first.task_group, first.cut], first.wire.header == "compact"
        coded = Coding.of(first.wire, method, config.seed) is not None
        kind = first.cut, first.format, first.key if coded else None  # the clients of one entry have one codec
        start = first.task_group, first.cut, first.format, tuple(first.ranks.items())
        standing = starts.get(start)
        if offload is not None and standing is not None:
            standing = offload.join(standing, count, compact=compact, kind=kind)
        names = list(islice(everyone, count))
        for name, weight in zip(names, weights_of(config, first, group, names), strict=True):
            coding = Coding.of(first.wire, method, config.seed) if coded else None
            if standing is not None:
                members[name] = Member.idle(standing, weight, layers, coding)
                continue
            party = make(name)
            own = first.task_group, weight, party.exchanged, party.head, layers
            members[name] = Member(*own, term=party.term, coding=coding, compact=compact, kind=kind)
            if offload is None:
                clients[name] = party
            else:
                standing = starts[start] = offload.start(name, party)
                offload.join(standing, count - 1)
    return (clients if offload is None else offload), members


def _client_maker(
    loaded: LoadedExperiment, cache: PrefixCache | None, texts: TensorStore | None
) -> Callable[[str], Party]:
    """A function that makes a client by its name, as it is before the first round."""
    config, plan, tasks = loaded.config, loaded.plan, loaded.training_tasks()
    lowest = lowest_changing_blocks(config, plan)

    def make(name: str) -> Party:
        planned = plan.by_name[name]
        base, task, upper = loaded.bases[planned.format], tasks[planned.task_group], plan.above(planned.cut)
        party = new_client(config, planned, base, task, upper, loaded.device)
        give_prefix(cache, config, party, lowest[planned.key])
        party.wire.memory.store = texts
        return party

    return make


def _served(loaded: LoadedExperiment) -> dict[tuple[str, int], frozenset[str]]:
    """By task group and split layer, the layers whose adapter the server trains for such a client while other clients
    of its group train their own."""
    plan = loaded.plan
    contested = {name: plan.contested(name).keys() if loaded.split else set() for name in loaded.group_names}
    return {
        (group, cut): frozenset(path for path in contested[group] if layer_of(path, plan.family) >= cut)
        for group, cut in {(kind.task_group, kind.cut) for kind in plan.kinds}
    }


def make_aggregator(loaded: LoadedExperiment, server: SplitServer, members: dict[str, Member]) -> Aggregator:
    """The aggregator of the adapters, and of the heads where clients train them."""
    config, plan, base, device = loaded.config, loaded.plan, loaded.base, loaded.device
    setting = Setting.of(config, device)
    groups, heads = {}, {}
    for name, task in loaded.training_tasks().items():
        ranks = plan.group_ranks(name) if loaded.split else plan.server_ranks(name) | plan.group_ranks(name)
        groups[name] = setting.adapters(base, ranks)
        made = (head_of_client(config, kind, base, task, device) for kind in plan.kinds_of(name))
        if (head := next((head for head in made if head is not None), None)) is not None:
            heads[name] = head
    return Aggregator(
        method_of(config),
        members,
        groups,
        heads,
        plan.sizes,
        server.groups,
        optimizer=merge_optimizer_of(config),
        keep_errors=config.aggregation.error_ledger,
    )


def protection_of(federation: Federation) -> Protection:
    """The privacy mechanisms that a federation's config asks for, with the parties that they act on."""
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
        given.replacement,
    )


def start_from_adapters(federation: Federation) -> None:
    """Initialise each task group that has the key ``adapter`` from the adapter in that folder.

    Raises:
        ConfigError, ResourceError: the folder is not an adapter for this experiment.
    """
    for name, group in federation.config.task_groups.items():
        if group.adapter is not None:
            federation.warm_starts[name] = start_from(federation, name, group.adapter)
            federation.aggregator.give_server(name)
