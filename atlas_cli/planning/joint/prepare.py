"""From a config and what may be chosen to a search; no weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from atlas_cli.config.checks import cross_check
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import LORA
from atlas_cli.models.files.resolve import model_config
from atlas_cli.planning.client_rows import most_by_entry, read_kept, read_rows
from atlas_cli.planning.cuts.leakage import KNOWN, Leakage
from atlas_cli.planning.joint.candidate import Kind, kinds_of
from atlas_cli.planning.joint.costs import Costs
from atlas_cli.planning.joint.search import Search
from atlas_cli.planning.joint.space import CUT, FREE, Ranges, applied, coded
from atlas_cli.planning.memory_assumptions import read_classes, read_texts
from atlas_cli.planning.memory_of_plan import build_task_of
from atlas_cli.planning.method import method_of
from atlas_cli.planning.plan import ClientPlan, Plan, make_plan


def prepare(
    config: ExperimentConfig, ranges: Ranges, by: Literal["device", "client"], leakage: Leakage | None
) -> tuple[Search, list[str]]:
    """A search over the settings of a config's clients, and notes on what it assumes.

    Args:
        by: as for ``kinds_of``.
        leakage: by layer; default: that of the packaged model.

    Raises:
        ConfigError: what ``make_plan`` raises, a config of whose clients one's costs depend on another's settings, or
            values that cannot be chosen.
        ResourceError: the model's config cannot be found.
    """
    _check(config, ranges)
    hf_config = model_config(config.model)[0]
    cuts = ranges.cuts_of(config, int(hf_config.num_hidden_layers))
    leakage = leakage or KNOWN.get(config.model.name)
    if leakage is not None and not set(cuts) & set(leakage.layers):
        raise ConfigError("has none of the split layers that may be chosen", key="--leakage")
    ranges, notes = _possible(config, ranges, cuts[0])
    plan = make_plan(_with(config, cuts[0], {"rank": max(ranks)} if (ranks := ranges.clients.get("rank")) else {}))
    classes, assumed = read_classes(plan)
    notes += assumed
    by_row = _with(config, cuts[0], {"embedding": "rows"} if "rows" in ranges.clients.get("embedding", ()) else {})
    counted, assumed = read_rows(by_row, hf_config)
    notes += assumed
    tasks = {name: build_task_of(plan, name, classes.get(name, ())) for name in config.task_groups}
    frozen = _with(config, cuts[0], {"learns": "frozen"} if "frozen" in ranges.clients.get("learns", ()) else {})
    texts, assumed = read_kept(frozen, hf_config)
    kept = {client: of_client.tokens for client, of_client in texts.items()}
    notes += assumed
    if any(client.learns == "frozen" for client in frozen.clients.values()):
        notes.append("a frozen client's figures are those of the first epoch, while its texts are new to the server")
    of_codecs, assumed = read_texts(plan, _codings(plan, ranges))
    notes += assumed
    costs, kinds = Costs(plan, tasks, most_by_entry(by_row, counted), kept, of_codecs), kinds_of(plan, by)
    if not ranges.one_cut and len(kinds) > 1 and len(cuts) > 1:
        refused = _different_cuts(config, kinds, cuts)
        ranges = replace(ranges, one_cut=refused is not None)
        notes += [f"all clients have one split layer, as different ones are refused: {refused}"] if refused else []
    return Search(config, costs, kinds, ranges, leakage), notes


def _check(config: ExperimentConfig, ranges: Ranges) -> None:
    """Refuse what the figures of one client would not be its own for."""
    if config.mode != "split-federated":
        raise ConfigError("only split-federated training is planned; set split-federated", key="mode")
    if config.training.server_update == "sequential":
        raise ConfigError(
            "clients that are served one after another wait for each other's settings, which is not planned; set "
            "pooled or per-client",
            key="training.server_update",
        )
    if config.training.asynchrony is not None:
        raise ConfigError(
            "clients that take part at their own pace have no round of all, which is what is planned; plan without it, "
            "training.asynchrony=null",
            key="training.asynchrony",
        )
    if (method := method_of(config)).form() != LORA:
        raise ConfigError(
            f"adapters of {config.aggregation.method} are no factors A and B of dW, whose costs are those that are "
            "planned; use another aggregation.method",
            key="aggregation.method",
        )
    if method.CHANGES_BASE or method.SELECTS:
        raise ConfigError(
            f"what a client of {config.aggregation.method} gets depends on the ranks of all, which is not planned; use "
            "another aggregation.method",
            key="aggregation.method",
        )
    for name, client in config.clients.items():
        if client.rank == "auto" and "rank" not in ranges.clients:
            raise ConfigError(
                "atlas ranks gives this client its ranks; run it first, or list those to choose from: --ranks 4,8",
                key=f"clients.{name}.rank",
            )


def _possible(config: ExperimentConfig, ranges: Ranges, cut: int) -> tuple[Ranges, list[str]]:
    """The ranges without what model, task, other keys or a listed way to learn refuse of ``FREE`` keys, and what was
    left out.

    Raises:
        ConfigError: they refuse a value of another key.
    """
    kept, notes = dict(ranges.clients), []
    wires = [coded(config, codec) for codec in ranges.codecs_of(config)]
    base = {"rank": min(ranges.clients["rank"])} if "rank" in ranges.clients else {}
    for key, values in ranges.clients.items():
        for value in values:
            changed = _with(config, cut, {**base, key: value})
            if changed == _with(config, cut, base):
                continue
            ways = ranges.clients.get("learns", ()) if key in FREE else ()
            try:
                for each in (changed, *(_with(config, cut, {**base, key: value, "learns": way}) for way in ways)):
                    _any_checked(each.model_copy(update={"wire": wire}) for wire in wires)
            except ConfigError as error:
                left = [other for other in kept[key] if other != value]
                if key not in FREE or not left:
                    raise
                kept[key] = left
                notes.append(f"{key}: {str(value).lower()} is not planned: {error}")
    learning = [{**base, **({"learns": way} if way else {})} for way in ranges.clients.get("learns", ("",))]
    for wire in wires:
        if wire != config.wire:
            _any_checked(_with(config, cut, each).model_copy(update={"wire": wire}) for each in learning)
    return replace(ranges, clients=kept), notes


def _different_cuts(config: ExperimentConfig, kinds: Sequence[Kind], cuts: Sequence[int]) -> ConfigError | None:
    """Why kinds of clients may not have different split layers; None if they may.

    What refuses them does so for any two cuts, in any task group.
    """
    groups = [{config.clients[crew.name].task_group for crew in kind.crews} for kind in kinds]
    shares = (any(own & other for other in groups if other is not own) for own in groups)
    apart = next((kind for kind, found in zip(kinds, shares, strict=True) if found), kinds[0])
    changed = _with(config, cuts[0], {})
    for crew in apart.crews:
        deeper = changed.clients[crew.name].model_copy(update={CUT: cuts[-1]})
        changed = changed.model_copy(update={"clients": {**changed.clients, crew.name: deeper}})
    try:
        _checked(changed)
    except ConfigError as error:
        return error
    return None


def _codings(plan: Plan, ranges: Ranges) -> Iterator[ClientPlan]:
    """The kinds of clients of a plan with each codec and each way to learn that may be chosen."""
    wires = [coded(plan.config, codec) for codec in ranges.codecs_of(plan.config)]
    for client in plan.kinds:
        own = plan.config.entry_of(client.key).wire
        for wire in wires:
            for way in ranges.clients.get("learns", (client.learns,)):
                yield replace(client, wire=own.over(wire), learns=way)


def _any_checked(configs: Iterable[ExperimentConfig]) -> None:
    """Check configs until one is not refused.

    Raises:
        ConfigError: all are; what the first was refused for.
    """
    errors = []
    for config in configs:
        try:
            return _checked(config)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _checked(config: ExperimentConfig) -> None:
    """Check a config with other settings.

    Raises:
        ConfigError: they are refused.
    """
    if problems := cross_check(config):
        raise ConfigError(problems[0].message, key=".".join(map(str, problems[0].path)))
    make_plan(config)


def _with(config: ExperimentConfig, cut: int, option: Mapping[str, Any]) -> ExperimentConfig:
    """The config with one cut for all clients, and keys of all clients."""
    chosen = tuple(option.items())
    clients = {
        name: client.model_copy(update={CUT: None, **applied(config, name, chosen)})
        for name, client in config.clients.items()
    }
    model = config.model.model_copy(update={"split_layer": cut})
    return config.model_copy(update={"model": model, "clients": clients})
