"""The state of a federation as named tensors and JSON: all that does not follow from config, seed and round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Factors
from atlas_cli.clustering.regroup import regroup
from atlas_cli.experiment.saved_clients import PARTS, Copies, Kind
from atlas_cli.experiment.state_checks import check_changes, check_state, check_tensors, unfit
from atlas_cli.federation.client_state.contents import give, give_moments, named, take
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.client_state.offloaded import as_changes, changes_in
from atlas_cli.federation.client_state.unsound import TENSORS, Unsound, unsound
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.optimizers import moments_of
from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.adapters.lora import AdapterSet


def capture(federation: Federation, copies: Copies | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of every trained tensor and optimizer moment, and what each client holds of them.

    What clients hold has its hash in its name, ``held/<sha256>/...``: those that hold the same have it once. The state
    has a list of kinds of clients (``Kind``), and for every client, in the order of the config, the number of its kind.

    Args:
        copies: those of the capture before: only clients that were used since then are looked at again.
    """
    tensors = _copies(_shared(federation))
    for owner, optimizer in _of_server(federation):
        tensors |= {f"{owner}/optimizer/{n}": _copy(value) for n, value in moments_of(optimizer).items()}
    aggregator = federation.aggregator
    for group, change in aggregator.changes.items():
        for when, adapters in (("total", change.total), *change.rows.items()):
            for path, factors in adapters.items():
                for part, value in zip(Factors._fields, factors, strict=True):
                    tensors[f"change/{group}/{when}/{path}/{part}"] = _copy(value)
    tensors |= {f"method/{n}": _copy(value) for n, value in aggregator.method.state_dict().items()}
    kinds, clients, held = (copies or Copies()).of_clients(federation)
    return tensors | held, {
        "versions": dict(aggregator.version),
        "change_versions": {
            group: list(change.rows)
            for group, change in aggregator.changes.items()
            if aggregator.method.CHANGES_BASE  # else no version has rows
        },
        "kinds": [list(kind) for kind in kinds],
        "clients": clients,
    }


@torch.no_grad()
def restore(
    federation: Federation, tensors: Mapping[str, Tensor], state: Mapping[str, Any], where: str = "the checkpoint"
) -> None:
    """Make a freshly built federation what it was when ``tensors`` and ``state`` were captured.

    Args:
        where: what they come from, for messages.

    Raises:
        ResourceError: the state is not that of this federation; names the field.
    """
    try:
        kinds = check_state(federation, state)
        check_tensors(federation, tensors, kinds)
        check_changes(federation, tensors, state["change_versions"])
        _restore(federation, tensors, state, kinds)
    except (Unsound, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise unfit(where, error) from error


def _restore(
    federation: Federation, tensors: Mapping[str, Tensor], state: Mapping[str, Any], kinds: list[Kind]
) -> None:
    of_client = dict(zip(federation.clients, (kinds[i] for i in state["clients"]), strict=True))
    contents: dict[str, dict[str, Tensor]] = {}
    rest, of_method = {}, dict[str, Tensor]()
    for key, value in tensors.items():
        part, _, n = key.partition("/")
        if part in PARTS:
            sha256, _, n = n.partition("/")
            contents.setdefault(f"{part}/{sha256}", {})[n] = value
        elif part == "method":
            of_method[key.partition("/")[2]] = value.to(federation.device)
        elif part != "change":
            rest[key] = value
    if clusters := {name: kind.cluster for name, kind in of_client.items() if kind.cluster is not None}:
        regroup(federation, clusters)
    federation.aggregator.rosters.forget()
    federation.fingerprints = {
        name.removeprefix("fingerprint/"): torch.zeros_like(value)
        for name, value in tensors.items()
        if name.startswith("fingerprint/")
    }
    _restore_clients(federation, of_client, contents)
    moments = {key: rest.pop(key) for key in list(rest) if "/optimizer/" in key}
    take(dict(_shared(federation)), rest)
    for owner, optimizer in _of_server(federation):
        prefix = f"{owner}/optimizer/"
        own = [key for key in moments if key.startswith(prefix)]
        found = {key.removeprefix(prefix): moments.pop(key) for key in own}
        give_moments(optimizer, f"{owner}/optimizer", found)
    if moments:
        raise unsound(TENSORS, next(iter(moments)), "is nobody's")
    _check_method(federation, of_method)
    federation.aggregator.method.load_state_dict(of_method)
    federation.aggregator.version.update(state["versions"])
    if federation.aggregator.method.CHANGES_BASE:
        _restore_changes(federation, tensors, state, of_client, contents)


def _restore_clients(
    federation: Federation, kinds: Mapping[str, Kind], contents: Mapping[str, dict[str, Tensor]]
) -> None:
    """Clients that are away and hold the same are brought in once."""
    shrinks = federation.aggregator.method.PRUNES
    done: dict[tuple[object, ...], Member] = {}
    for name, kind in kinds.items():
        member = federation.aggregator.members[name]
        alike = id(member.away), kind.held, kind.moments
        if federation.offload is not None and alike in done:
            federation.offload.become(name, done[alike])
        else:
            with federation.at_hand([name]):
                held, moments = (contents.get(kind.contents.get(part, ""), {}) for part in ("held", "moments"))
                for path, rank in member.ranks.items() if not shrinks else ():
                    if (A := held.get(f"{path}.lora_A")) is not None and len(A) != rank:
                        raise unsound(TENSORS, f"held/{kind.held}/{path}.lora_A", f"has rank {len(A)}, expected {rank}")
                give(federation.clients[name], member, held, moments)
                _check_term(federation, name, moments)
            done[alike] = member
        member.version, member.delivered_sha256 = kind.version, kind.delivered_sha256


def _check_term(federation: Federation, name: str, moments: Mapping[str, Tensor]) -> None:
    aggregator = federation.aggregator
    layers = aggregator.layers_of(aggregator.members[name].ranks)
    shapes = aggregator.method.extra_tensors(layers).at_client
    for key, value in moments.items():
        if key.startswith("term/") and tuple(value.shape) != shapes.get(key.removeprefix("term/")):
            raise unsound(TENSORS, key, f"of client {name} has shape {tuple(value.shape)}")


def _check_method(federation: Federation, state: Mapping[str, Tensor]) -> None:
    aggregator = federation.aggregator
    for key, value in state.items():
        group, _, name = key.partition("/")
        layers = aggregator.layers_of({p: f.rank for p, f in aggregator.merged.get(group, {}).items()})
        shape = aggregator.method.extra_tensors(layers).at_server.get(name)  # of another rank where groups changed
        if shape is None or len(shape) != value.dim():
            raise unsound(TENSORS, f"method/{key}", f"has shape {tuple(value.shape)}")


def _restore_changes(
    federation: Federation,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    contents: Mapping[str, Mapping[str, Tensor]],
) -> None:
    aggregator, device = federation.aggregator, federation.device
    for group, change in aggregator.changes.items():
        saved = {
            when: {
                path: Factors(*(tensors[f"change/{group}/{when}/{path}/{p}"].to(device) for p in Factors._fields))
                for path in aggregator.merged[group]
                if f"change/{group}/{when}/{path}/A" in tensors
            }
            for when in ("total", *state["change_versions"][group])
        }
        change.total = saved.pop("total")
        change.rows = saved
    proved = set()  # of those that hold their group's version: what they run follows from it, and has its hash
    for name, member in aggregator.members.items():
        sha256 = kinds[name].frozen
        with federation.at_hand([name]):
            if member.version != aggregator.version[member.group]:
                member.adapters.frozen.clear()
                frozen = contents[f"frozen/{sha256}"] if sha256 else {}
                member.adapters.frozen.update(as_changes(frozen, device))
                continue
            aggregator.attach_base(name)
            alike = member.group, tuple(member.ranks.items()), sha256
            if alike not in proved and (sha256_tensors(changes_in(member)) if changes_in(member) else None) != sha256:
                raise unsound(TENSORS, f"change/{member.group}", f"is not what client {name} holds")
            proved.add(alike)


def _shared(federation: Federation) -> Iterator[tuple[str, Tensor]]:
    """Those that are no client's."""
    aggregator = federation.aggregator
    for group, merged in aggregator.merged.items():
        for path, factors in merged.items():
            for part, value in zip(Factors._fields, factors, strict=True):
                yield f"merged/{group}/{path}/{part}", value
        yield from named(f"group/{group}/", aggregator.groups[group], None)
    for part, head in aggregator.heads.items():
        yield from named(f"group/{part}/", AdapterSet({}), head)
    for name, total in federation.fingerprints.items():
        yield f"fingerprint/{name}", total
    for group, trained in federation.server.groups.items():
        yield from named(f"server/{group}/", trained.adapters, trained.head)


def _copies(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: _copy(value) for name, value in tensors}


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _of_server(federation: Federation) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """Its optimizers, by owner."""
    for group, trained in federation.server.groups.items():
        if trained.optimizer is not None:
            yield f"server/{group}", trained.optimizer
