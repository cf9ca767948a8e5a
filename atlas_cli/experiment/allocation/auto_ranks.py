"""``rank: auto``: from a config with devices to the same config with a rank for every layer of every client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from atlas_cli.config.schema.experiment import ClientConfig, ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.importance import measure_importance
from atlas_cli.experiment.allocation.smaller_client import smaller_client
from atlas_cli.federation.build import assemble
from atlas_cli.federation.loaded_experiment import LoadedExperiment, load_experiment
from atlas_cli.models.block_paths import by_layer
from atlas_cli.planning.alike import Alike
from atlas_cli.planning.client_rows import most_rows
from atlas_cli.planning.cuts.auto import resolve_auto_cuts
from atlas_cli.planning.devices.devices import Device, configured_devices, find_device
from atlas_cli.planning.memory.party_memory import PartyMemory
from atlas_cli.planning.memory_assumptions import most_texts, tasks_of
from atlas_cli.planning.memory_of_plan import client_memory
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan, Plan, make_plan
from atlas_cli.planning.ranks.costs import ByPath, Targets, by_path, rank_costs
from atlas_cli.planning.ranks.rules import Allocation, RankProblem, allocate, allocate_random, allocate_uniform
from atlas_cli.planning.round_bytes import full_shape, round_bytes
from atlas_cli.tasks.contract import BaseTask


@dataclass(frozen=True)
class ClientRanks:
    """A client's ranks, and the memory and bytes that they cost.

    Attributes:
        ranks: by layer.
        device: None where the config names none.
        importance: by layer, where ranks depend on it.
        allocation: how ranks were chosen; None where the config has the ranks.
        memory: predicted for full batches of the longest examples.
        uplink: bytes a round for such batches, activations included.
    """

    name: str
    ranks: dict[int, int]
    device: Device | None
    importance: dict[int, float] | None
    allocation: Allocation | None
    adapter_parameters: int
    memory: PartyMemory
    uplink: int

    def named(self, name: str) -> ClientRanks:
        """The same for another client, with which it shares all else."""
        alike = (self.ranks, self.device, self.importance, self.allocation, self.adapter_parameters)
        return ClientRanks(name, *alike, self.memory, self.uplink)


@dataclass(frozen=True)
class RankPlan:
    """The ranks of all clients, in the order of the config.

    Attributes:
        config: The config with a number for every split layer and rank.
        method: How ranks were allocated: "gradient", "uniform" or "random".
        clients: The ranks of each client, with their memory and bytes.
        loaded: What was loaded to measure importance, if the run can go on with it.
    """

    config: ExperimentConfig
    method: str
    clients: Sequence[ClientRanks]
    loaded: LoadedExperiment | None = None


def plan_ranks(config: ExperimentConfig, method: str | None = None) -> RankPlan:
    """Give ranks to the clients that have ``rank: auto``.

    A template of several such clients becomes a client each, of the same names, because each has data of its own and so
    an importance of its own. The baselines that are not split get the ranks of the split.

    Args:
        method: "gradient", "uniform" or "random"; default: ``allocation.importance``. Only "gradient" loads weights
            and data, and only where some rank is auto.

    Raises:
        ConfigError: a client without a device, a device without a figure that is needed, a client that cannot afford
            ``allocation.r_min``, or what ``make_plan`` and ``build`` raise.
        ResourceError: the model or the data cannot be found.
    """
    method, config = method or config.allocation.importance, resolve_auto_cuts(config)
    rules: dict[str, Callable[[RankProblem], Allocation]] = {
        "gradient": allocate,
        "uniform": allocate_uniform,
        "random": partial(allocate_random, seed=config.seed),
    }
    auto = _auto(config)
    probing = _probing(config, auto)
    plan = make_plan(probing)
    tasks = tasks_of(plan)
    rows, texts = most_rows(config, plan.hf_config), most_texts(plan)
    kinds = {
        c.key: _Kind(config, plan, c, tasks[c.task_group], c.name in auto, rows.get(c.key), texts.get(c.key, 0))
        for c in plan.kinds
    }
    firsts = {kind.key: kind.name for kind in plan.kinds if kind.name in auto}
    for key, name in firsts.items():  # what cannot fit is said before any weights are loaded
        _require_room(kinds[key], name, _probing(config, auto, config.allocation.r_min))
    loaded = load_experiment(plan) if method == "gradient" and auto else None
    importances = _importances(loaded, auto) if loaded is not None else {}
    own = firsts.values() if method == "uniform" else auto  # uniform ranks are those of all clients of an entry
    allocated = {name: kinds[auto[name]].allocate(rules[method], importances.get(name), name) for name in own}
    given = {name: allocated.get(name) or allocated[firsts[key]] for name, key in auto.items()}
    resolved = _written_out(config, {name: allocation.ranks for name, allocation in given.items()})
    # a client that runs components of its group beside its own holds what the ranks of all come to
    whole = make_plan(_probing(resolved, {})) if auto and method_of(config).SELECTS else None

    def ranked(client: ClientPlan) -> ClientRanks:
        kind, allocation, name = kinds[client.key], given.get(client.name), client.name
        ranks = allocation.ranks if allocation is not None else by_layer(client.ranks, plan.family)
        paths = by_path(ranks, kind.targets)
        size, memory, uplink = plan.adapter_parameters(paths), kind.memory(paths, whole), kind.uplink(paths)
        return ClientRanks(name, ranks, kind.device, importances.get(name), allocation, size, memory, uplink)

    alike = method == "uniform" or not auto
    clients = plan.clients.each(ranked) if alike and isinstance(plan.clients, Alike) else [*map(ranked, plan.clients)]
    reusable = loaded if config.mode == "split-federated" else None
    return RankPlan(resolved, method, clients, reusable)


def _importances(loaded: LoadedExperiment, clients: Iterable[str]) -> dict[str, dict[int, float]]:
    """The importance of every layer of some clients, as measured on parties that are given up again."""
    federation = assemble(loaded)
    try:
        return {client: measure_importance(federation, client) for client in clients}
    finally:
        federation.close()


class _Kind:
    """What all clients of one template have in common.

    Args:
        rows: the most rows of the token embedding that one of them holds, where they do not hold its table.
        texts: the most tokens of texts, of which codecs keep something.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        plan: Plan,
        client: ClientPlan,
        task: BaseTask,
        auto: bool,
        rows: int | None,
        texts: int,
    ) -> None:
        training, self.rules, self.key = config.training, config.allocation, client.key
        self.device = _device(config, client.key, auto)
        self.targets = _targets(plan, client)
        self._plan, self._client, self._task, self._rows, self._texts = plan, client, task, rows, texts
        self._shape = full_shape(training)
        self._predicted: dict[tuple[bool, tuple[tuple[str, int], ...]], PartyMemory] = {}
        self._uplinks: dict[tuple[tuple[str, int], ...], int] = {}
        if not auto:
            return
        smallest = min(min(f) for paths in self.targets.values() for f in paths.values())
        if self.rules.r_min > min(smallest, self.rules.r_max):
            limit = "allocation.r_max" if self.rules.r_max < smallest else "the size of the smallest layer"
            raise ConfigError(
                f"{self.rules.r_min} is above {min(smallest, self.rules.r_max)}, {limit}; lower it",
                key="allocation.r_min",
            )
        self.budgets = _budgets(config, self.device)
        positions = training.batch_size * training.max_length
        self.costs = rank_costs(self.memory, self.uplink, self.targets, positions, self.rules.r_min, self.rules.r_max)

    def memory(self, ranks: ByPath, whole: Plan | None = None) -> PartyMemory:
        """Predicted for full batches of the longest examples; ``whole``: the plan with the ranks of all."""
        key = whole is not None, tuple(ranks.items())
        if key not in self._predicted:  # a trace takes half a second, and clients alike ask for the same
            client = replace(self._client, ranks=ranks)
            held = self._rows, self._texts
            self._predicted[key] = client_memory(whole or self._plan, client, self._task, self._shape, *held)
        return self._predicted[key]

    def uplink(self, ranks: ByPath) -> int:
        """Bytes that a client sends in a round of such batches."""
        key = tuple(ranks.items())
        if key not in self._uplinks:
            client = replace(self._client, ranks=ranks)
            self._uplinks[key] = round_bytes(self._plan, client, self._task, self._shape).up
        return self._uplinks[key]

    def allocate(
        self, rule: Callable[[RankProblem], Allocation], importance: Mapping[int, float] | None, name: str
    ) -> Allocation:
        """Ranks of the client ``name``; a control needs no importance."""
        return rule(
            RankProblem(
                importance or dict.fromkeys(self.targets, 1.0),
                self.costs.unit_costs,
                self.budgets,
                self.costs.fixed,
                self.rules.r_min,
                self.costs.r_max,
                client=name,
                key=f"{self.key}.rank",
            )
        )


def _auto(config: ExperimentConfig) -> dict[str, str]:
    """Clients with ``rank: auto``, and where the config speaks of them."""
    if all(kind.rank != "auto" for kind in config.client_kinds()):
        return {}
    autos = (kind for kind in config.client_kinds() if kind.rank == "auto")
    return {name: kind.key for kind in autos for name in config.names_of(kind)}


def _require_room(kind: _Kind, name: str, least: ExperimentConfig) -> None:
    """Check that a client can afford ``allocation.r_min``; ``least``: the config in which it has that rank.

    Raises:
        ConfigError: it cannot; with the keys of the client with which its memory would do.
    """
    try:
        kind.allocate(allocate_uniform, None, name)
    except ConfigError as error:
        spec = next(each for each in least.expanded_clients() if each.name == name)
        peak = kind.memory(by_path(dict.fromkeys(kind.targets, kind.rules.r_min), kind.targets)).peak
        memory = kind.device.memory if kind.device else None
        smaller = smaller_client(least, spec, memory) if memory is not None and peak > memory else ""
        raise ConfigError(error.message + (f", or set {smaller}" if smaller else ""), key=error.key) from None


def _probing(config: ExperimentConfig, auto: Mapping[str, str], rank: int = 1) -> ExperimentConfig:
    """The config that importance is measured with: split, from the base model, every rank a number."""
    keys = frozenset(auto.values())
    clients = {
        name: client.model_copy(update={"rank": rank}) if f"clients.{name}" in keys else client
        for name, client in config.clients.items()
    }
    groups = {name: group.model_copy(update={"adapter": None}) for name, group in config.task_groups.items()}
    return config.model_copy(update={"mode": "split-federated", "clients": clients, "task_groups": groups})


def _written_out(config: ExperimentConfig, ranks: Mapping[str, dict[int, int]]) -> ExperimentConfig:
    clients, alike = {}, dict[tuple[object, ...], ClientConfig]()
    for kind in config.client_kinds():
        name = kind.key.removeprefix("clients.")
        if kind.name not in ranks:
            clients[name] = config.clients[name]
            continue
        for client in config.names_of(kind):
            by_layer = ranks[client]
            found = (name, *by_layer.items())
            if found not in alike:
                same = len(set(by_layer.values())) == 1
                rank = next(iter(by_layer.values())) if same else by_layer
                alike[found] = config.clients[name].model_copy(update={"rank": rank, "count": 1})
            clients[client] = alike[found]
    return config.model_copy(update={"clients": clients})


def _device(config: ExperimentConfig, key: str, auto: bool) -> Device | None:
    """The client's device; with ``rank: auto`` it must be there with all that budgets are made of."""
    name = config.entry_of(key).device
    if name is None:
        if auto:
            raise ConfigError(
                "rank: auto needs a device to fit; add device: NAME (atlas devices lists them), or give a rank",
                key=f"{key}.rank",
            )
        return None
    device = find_device(name, configured_devices(config), key=f"{key}.device")
    if auto and device.memory is None:
        raise ConfigError(
            "has no memory, and rank: auto fits ranks to it; add e.g. memory: 2 GiB", key=f"devices.{name}"
        )
    if auto and device.uplink is None and config.allocation.uplink_seconds is not None:
        raise ConfigError(
            "has no uplink, and allocation.uplink_seconds limits it; add e.g. uplink: 10 Mbit/s", key=f"devices.{name}"
        )
    return device


def _targets(plan: Plan, client: ClientPlan) -> Targets:
    layers: dict[int, dict[str, tuple[int, int]]] = {}
    for path in client.ranks:
        (layer,) = by_layer({path: 0}, plan.family)
        layers.setdefault(layer, {})[path] = plan.features[path]
    return layers


def _budgets(config: ExperimentConfig, device: Device | None) -> dict[str, float | None]:
    assert device is not None
    seconds = config.allocation.uplink_seconds
    uplink = None if seconds is None or device.uplink is None else device.uplink * seconds / 8
    return {"memory": device.memory, "uplink": uplink}
