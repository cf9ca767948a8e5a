"""The plan of an experiment: everything that config and model shapes determine, computed on the meta device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import torch
from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.aggregation.contract import PARTS
from atlas_cli.config.client_names import Range, as_ranges
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import AdapterForm, features_of
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.families import family_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.files.resolve import model_config
from atlas_cli.models.frozen.load import check_cut
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.frozen.rotary import depends_on_length
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.models.halves.split import blocks_of, client_half, server_half
from atlas_cli.planning.alike import Alike
from atlas_cli.planning.checks import (
    check_before_shapes,
    check_clusters,
    check_embeddings,
    check_example_noise,
    check_frozen,
    check_hooks,
    check_server_memory,
)
from atlas_cli.planning.client_plan import ClientPlan as ClientPlan
from atlas_cli.planning.client_plan import client_plan, codecs_of
from atlas_cli.planning.cuts.auto import resolve_auto_cuts
from atlas_cli.planning.devices.cost import BlockShapes, block_shapes
from atlas_cli.planning.form_checks import check_form
from atlas_cli.planning.method import method_of, shares_gradients
from atlas_cli.wire.step_codecs import StepCodecs


@dataclass(frozen=True)
class Plan:
    """The parties, cuts and adapters of an experiment.

    Attributes:
        init: the initialisation of weights in words.
        cut: the first block of the server, of ``n_layers``: the split layer, or the smallest where clients differ.
        features: (d_in, d_out) of every layer that any party adapts.
        upper_ranks: the ranks of LoRA on the server half, by path; empty if the server trains heads only.
        parameters: numbers of parameters of "model", "client half" (at ``cut``), "server half".
        setup_tensors: by split layer and format, the client half's weights as meta tensors: what a client must get
            before it can start.
    """

    config: ExperimentConfig
    family: BaseFamily
    hf_config: PreTrainedConfig
    init: str
    n_layers: int
    hidden_size: int
    cut: int
    clients: Alike[ClientPlan]
    upper_ranks: Mapping[str, int]
    features: Mapping[str, tuple[int, int]]
    parameters: Mapping[str, int]
    setup_tensors: Mapping[tuple[int, WeightFormat], Mapping[str, torch.Tensor]]

    @cached_property
    def form(self) -> AdapterForm:
        """What the components of adapters are; ranks count them."""
        return method_of(self.config).form()

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of every layer that any party adapts, the numbers in a row of A and in a column of B."""
        return {path: self.form.sizes(*features) for path, features in self.features.items()}

    @property
    def by_name(self) -> Mapping[str, ClientPlan]:
        """The clients, by name."""
        return self.clients.by_name

    @property
    def kinds(self) -> tuple[ClientPlan, ...]:
        """The first client of each entry of the config, in its order; the others of ``count`` differ in name alone."""
        return self.clients.kinds

    def names_of(self, kind: ClientPlan) -> Sequence[str]:
        """The names of all clients of an entry of the config, of which ``kind`` is the first."""
        return self._names_by_key[kind.key]

    @cached_property
    def _names_by_key(self) -> dict[str, Sequence[str]]:
        return {kind.key: self.clients.names_of(place) for place, kind in enumerate(self.kinds)}

    @cached_property
    def block_shapes(self) -> BlockShapes:
        """The shapes from which the FLOPs of a block follow."""
        return block_shapes(self.family, self.hf_config)

    @cached_property
    def one_by_one(self) -> str | None:
        """The config key that forces each client to be computed alone and padded; None if clients may share passes."""
        config, training = self.config, self.config.training
        reasons = {
            "engine.fuse": config.engine.fuse == "off",
            "mode": config.mode != "split-federated",
            "lora.dropout": config.lora.dropout > 0,  # drawn for a padded batch
            "training.autocast": training.autocast != "off",  # adapters by segment compute in their own dtype
            "training.deadline": training.deadline is not None,  # a client that is out takes no part in a server's step
            f"privacy.{config.privacy.in_a_step()}": config.privacy.in_a_step() is not None,
            "training.asynchrony": training.asynchrony is not None,  # clients are served one after the other
            "wire": any(client.wire.acts for client in self.kinds),
            "training.on_nonfinite": training.on_nonfinite != "stop",
            # positions may depend on the longest text of a pass
            "training.max_length": depends_on_length(self.hf_config, training.max_length),
            "model.name": not self.family.packs,
        }
        return next((key for key, holds in reasons.items() if holds), None)

    def codecs(self, client: ClientPlan) -> StepCodecs:
        """The codecs of a client's messages, without what they keep of earlier ones.

        Raises:
            ConfigError: as ``wire.codecs.codec_of``.
        """
        return codecs_of(self.config, client, self.hidden_size)

    def members(self, group: str) -> list[ClientPlan]:
        """The clients of a task group, in the order of the config."""
        return [c for c in self.clients if c.task_group == group]

    def kinds_of(self, group: str) -> list[ClientPlan]:
        """The first client of each entry of the config that is of a task group."""
        return [kind for kind in self.kinds if kind.task_group == group]

    @property
    def group_names(self) -> list[str]:
        """The task groups in the order of the config."""
        return list(self.config.task_groups)

    def names(self, group: str) -> list[str]:
        """The names of a task group's clients, in the order of the config; the list must not be changed."""
        return self._by_group.get(group, [])

    def ranges(self, group: str) -> list[Range]:
        """The same as ranges, without a look at each."""
        of_group = (place for place, kind in enumerate(self.kinds) if kind.task_group == group)
        return as_ranges(chain.from_iterable(map(self.clients.ranges_of, of_group)))

    @cached_property
    def _by_group(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        names = iter(self.clients.names)
        for place, kind in enumerate(self.kinds):
            found.setdefault(kind.task_group, []).extend(islice(names, len(self.clients.names_of(place))))
        return found

    def in_order(self, clients: Iterable[str]) -> list[str]:
        """Sort some clients in the order of the config, without duplicates."""
        return sorted(set(clients), key=self.clients.places.__getitem__)

    def adapter_parameters(self, ranks: Mapping[str, int]) -> int:
        """The number of parameters in a set of adapters, as they are sent: r (d_in + d_out) for each layer of LoRA."""
        return sum(rank * sum(self.sizes[path]) for path, rank in ranks.items())

    def fixed_bytes(self, ranks: Mapping[str, int]) -> int:
        """Bytes that a set of adapters holds besides its parameters."""
        return sum(4 * self.form.fixed(rank, *self.features[path]) for path, rank in ranks.items())

    def widths(self, ranks: Mapping[str, int]) -> dict[str, int]:
        """The ranks of the dW of a set of adapters."""
        return {path: self.form.width(rank) for path, rank in ranks.items()}

    def server_ranks(self, group: str) -> dict[str, int]:
        """Ranks of the server's adapters for a task group, on every layer that it runs for any of its clients."""
        return self.above(min(kind.cut for kind in self.kinds_of(group)))

    def above(self, cut: int) -> dict[str, int]:
        """Ranks of the adapters on the server half that begins at block ``cut``."""
        return {path: rank for path, rank in self.upper_ranks.items() if layer_of(path, self.family) >= cut}

    def contested(self, group: str) -> dict[str, int]:
        """The server's adapters on layers that some client of the group with a deeper cut adapts itself."""
        held = {path for kind in self.kinds_of(group) for path in kind.ranks}
        return {path: rank for path, rank in self.server_ranks(group).items() if path in held}

    def group_ranks(self, group: str) -> dict[str, int]:
        """The ranks of the group's merged adapter: on each layer, the largest of its holders, or as its form has it."""
        merged: dict[str, int] = {}
        for ranks in (*(kind.ranks for kind in self.kinds_of(group)), self.contested(group)):
            for path, rank in ranks.items():
                merged[path] = max(rank, merged.get(path, 0))
        return {path: self.form.of_group(merged[path]) for path in self.features if path in merged}

    def beside(self, client: ClientPlan) -> dict[str, int]:
        """Ranks of the components that a client runs beside its frozen weights, if the method ``SELECTS`` those that it
        trains: of the group's that it does not train; at most, where clusters are found."""
        if not method_of(self.config).SELECTS:
            return {}
        groups = [client.task_group] if self.config.clustering is None else self.group_names
        ranks = [self.group_ranks(group) for group in groups]
        left = {path: max(each.get(path, 0) for each in ranks) - rank for path, rank in client.ranks.items()}
        return {path: rank for path, rank in left.items() if rank > 0}


def make_plan(config: ExperimentConfig) -> Plan:
    """Check a config against its model's shapes without loading weights; replace ``split_layer: auto`` by numbers.

    Raises:
        ConfigError: the model cannot take a split layer, rank, target, task or length.
        TooFewClientsError: no split layer fits a client with ``auto``.
        ResourceError: the model's config cannot be found.
    """
    check_form(config)
    config = resolve_auto_cuts(config)
    hf_config, _, init = model_config(config.model)
    family = family_of(hf_config, config.model.family)
    check_before_shapes(config, hf_config, family)
    base, lm_head = meta_model(hf_config, family, getattr(torch, config.model.dtype))
    check_embeddings(config, base, lm_head)
    names = adapted_names(base, family, config.lora.targets)
    check_example_noise(config, hf_config, family, names)
    kinds = _planned_kinds(config, base, family, names)
    cut = min(kind.cut for kind in kinds)
    _check_cuts(config, kinds)
    _check_normalised(config, kinds)
    _check_kept_texts(config, kinds, int(hf_config.hidden_size))
    check_clusters(config, {kind.cut for kind in kinds})
    upper = _server_adapters(config, base, family, cut, names)
    top = max((layer_of(path, family) for path in upper), default=None)
    check_frozen(config, hf_config, {kind.name: kind.cut for kind in kinds}, top)
    features = {path: features_of(base.get_submodule(path)) for path in _all_paths(hf_config, family, names)}
    check_server_memory(config, features.values())
    check_hooks(config, method_of(config).form(), features, [kind.ranks for kind in kinds if kind.ranks])
    return Plan(
        config=config,
        family=family,
        hf_config=hf_config,
        init=init,
        n_layers=int(hf_config.num_hidden_layers),
        hidden_size=int(hf_config.hidden_size),
        cut=cut,
        clients=_every_client(config, kinds),
        upper_ranks=upper,
        features=features,
        parameters={
            "model": _count(base),
            "client half": _count(client_half(base, family, cut)),
            "server half": _count(server_half(base, family, cut)),
        },
        setup_tensors=_setup_tensors(hf_config, family, kinds, base, config.model.dtype),
    )


def _planned_kinds(config: ExperimentConfig, base: nn.Module, family: BaseFamily, names: list[str]) -> list[ClientPlan]:
    """The first client of each entry of the config, with its split layer and ranks."""
    n_layers, kinds, form = len(blocks_of(base, family)), [], method_of(config).form()
    for spec in config.client_kinds():
        assert spec.split_layer != "auto"
        cut = check_cut(spec.split_layer, n_layers, _own_key(config, spec.key, "split_layer", "model"))
        rank, key = _planned_rank(config, spec.rank), _own_key(config, spec.key, "rank", "lora")
        frozen = spec.learns == "frozen"
        kinds.append(
            client_plan(spec, cut, {} if frozen else place_ranks(base, family, rank, range(cut), names, key, form))
        )
    return kinds


def _every_client(config: ExperimentConfig, kinds: list[ClientPlan]) -> Alike[ClientPlan]:
    """All clients in the order of the config, from the first of each entry."""
    specs = config.client_kinds()
    counts = [config.entry_of(spec.key).count for spec in specs]
    return Alike(kinds, counts, lambda place: config.names_of(specs[place]))


def _check_kept_texts(config: ExperimentConfig, clients: list[ClientPlan], hidden_size: int) -> None:
    """Refuse memory for what codecs keep of texts where none keeps anything."""
    asked = config.engine.kept_texts is not None
    if asked and not any(codecs_of(config, client, hidden_size).numbered for client in clients):
        raise ConfigError(
            "is for what codecs keep of texts, and none does (codec: delta, or feedback of gradients); remove it",
            key="engine.kept_texts",
        )


def _server_adapters(
    config: ExperimentConfig, base: nn.Module, family: BaseFamily, cut: int, names: list[str]
) -> dict[str, int]:
    """The rank of each adapter on the server half, by path; empty when the server trains heads only."""
    if config.server.rank == 0:
        return {}
    layers = range(cut, len(blocks_of(base, family)))
    if not layers:
        raise ConfigError(f"the server half has no layers at split_layer {cut}; set server.rank: 0", key="server.rank")
    by_layer, form = dict.fromkeys(layers, config.server.rank), method_of(config).form()
    return place_ranks(base, family, by_layer, layers, names, "server.rank", form)


def _all_paths(hf_config: PreTrainedConfig, family: BaseFamily, names: list[str]) -> list[str]:
    """The paths of the adapted linear layers of all blocks."""
    return [f"{family.blocks}.{layer}.{name}" for layer in range(int(hf_config.num_hidden_layers)) for name in names]


def _setup_tensors(
    hf_config: PreTrainedConfig, family: BaseFamily, clients: list[ClientPlan], base: nn.Module, dtype: str
) -> dict[tuple[int, WeightFormat], dict[str, torch.Tensor]]:
    """The weights of each kind of client half, by split layer and format, without storage.

    Args:
        base: the model in ``dtype``, not quantised.
    """
    kinds = {(client.cut, client.format) for client in clients}
    bases = {
        each: base
        if (each.dtype, each.quantization) == (dtype, "none")
        else meta_model(hf_config, family, getattr(torch, each.dtype), each.quantization)[0]
        for each in {format for _, format in kinds}
    }
    return {(cut, format): dict(client_half(bases[format], family, cut).state_dict()) for cut, format in kinds}


def cuts_text(plan: Plan) -> str:
    """The split layers of all clients in words: "3", or "1 to 3" where they differ."""
    deepest = max(client.cut for client in plan.kinds)
    return str(plan.cut) if deepest == plan.cut else f"{plan.cut} to {deepest}"


def _planned_rank(config: ExperimentConfig, rank: int | dict[int, int] | str) -> int | dict[int, int]:
    # rank: auto is given its number before training (experiment/allocation); until then a plan has the least
    return config.allocation.r_min if isinstance(rank, str) else rank


def _check_cuts(config: ExperimentConfig, clients: list[ClientPlan]) -> None:
    """Check that a layer which lies on the server for some of a group's clients has an adapter there to merge."""
    if config.training.asynchrony is not None and len({client.cut for client in clients}) > 1:
        raise ConfigError("is for clients of one split layer; give all the same", key="training.asynchrony")
    method, first = method_of(config), dict[str, ClientPlan]()
    for client in clients:
        other, key = first.setdefault(client.task_group, client), f"{client.key}.split_layer"
        if other.cut == client.cut:
            continue
        if config.server.rank == 0:
            raise ConfigError(
                f"{client.name} keeps {client.cut} layers and {other.name} of the same task group keeps {other.cut}; "
                "the server adapts the layers between for one of them, so set server.rank to 1 or more, or give both "
                "one split_layer",
                key=key,
            )
        if config.aggregation.normalise != "none":
            raise ConfigError(
                "fednova is not defined where a layer lies on the server for some clients of a group, and those of "
                f"{client.task_group} have different split layers; give them one",
                key="aggregation.normalise",
            )
        if shares_gradients(config):
            raise ConfigError(
                "scaffold is not defined where a layer lies on the server for some clients of a group, and those of "
                f"{client.task_group} have different split layers; give them one",
                key="training.drift.name",
            )
        defined = method.CUTS_MAY_DIFFER and not method.CHANGES_BASE and set(method.SENT) == set(PARTS)
        if method.SENT and not defined:
            raise ConfigError(
                f"clients of {client.task_group} have different split layers, and {config.aggregation.method} is not "
                "defined for a layer that lies on the server for some of them; give them one split_layer, or another "
                "aggregation.method",
                key=key,
            )


def _own_key(config: ExperimentConfig, client_key: str, name: str, otherwise: str) -> str:
    own = getattr(config.entry_of(client_key), name)
    return f"{otherwise}.{name}" if own is None else f"{client_key}.{name}"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _check_normalised(config: ExperimentConfig, clients: list[ClientPlan]) -> None:
    """Refuse changes per step of unequal ranks where what a client cannot hold would count as its change."""
    if config.aggregation.normalise == "none" or method_of(config).LINEAR != "equal ranks":
        return
    ranks: dict[tuple[str, str], int] = {}
    for client in clients:
        for path, rank in client.ranks.items():
            if ranks.setdefault((client.task_group, path), rank) != rank:
                raise ConfigError(
                    f"fednova is not defined with {config.aggregation.method} where clients of a group have unequal "
                    f"ranks, and those of {client.task_group} do; use delta-svd, or give them one rank",
                    key="aggregation.normalise",
                )
