"""The state of a federation as named tensors and JSON: all that does not follow from config, seed and round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.aggregation._base import Factors
from atlas_cli.errors import ResourceError
from atlas_cli.federation.members import Away, Member
from atlas_cli.federation.offload import as_changes, changes_in, moments_in
from atlas_cli.federation.optimizers import load_moments, moments_of
from atlas_cli.federation.owned import give, named, take, values_of
from atlas_cli.federation.parties import Federation
from atlas_cli.federation.regroup import regroup
from atlas_cli.models.lora import AdapterSet


class Copies:
    """Copies of what clients hold, by its hash: clients that hold the same have one, and it lasts as long as any do."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], dict[str, Tensor]] = {}

    def of_clients(self, federation: Federation) -> dict[str, Tensor]:
        """Every trained tensor of every client by name; names of equal clients have the very same tensors.

        Those of clients that are away are the store's, which nobody writes to.
        """
        before, self._kept = self._kept, {}
        tensors: dict[str, Tensor] = {}
        away: dict[tuple[str, int], dict[str, Tensor]] = {}
        for name in federation.clients:
            # a frozen head that is not hashed with the rest is that of the client's base
            content = federation.aggregator.members[name].held_sha256(), id(federation.base_of(name))
            if content not in self._kept and content not in away:
                if (where := federation.aggregator.members[name].away) is not None:
                    away[content] = _of_away(federation, name, where)
                else:
                    self._kept[content] = before.get(content) or _copies(values_of(federation.clients[name]))
            held = self._kept.get(content) or away[content]
            tensors |= {f"client/{name}/{n}": value for n, value in held.items()}
        return tensors


def capture(federation: Federation, copies: Copies | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of every trained tensor and optimizer moment, and the versions that clients hold.

    Args:
        copies: those of the capture before, which are used again for clients that hold what they held.
    """
    tensors = _copies(_shared(federation))
    tensors |= (copies or Copies()).of_clients(federation)
    for name in federation.clients:
        for n, value in _moments(federation, name).items():
            number, _, rest = n.partition("/")
            tensors[f"client/{name}/{number}/optimizer/{rest}"] = value
    for owner, optimizer in _of_server(federation):
        tensors |= {f"{owner}/optimizer/{n}": _copy(value) for n, value in moments_of(optimizer).items()}
    aggregator = federation.aggregator
    members = aggregator.members
    for group, change in aggregator.changes.items():
        for when, adapters in (("total", change.total), *change.rows.items()):
            for path, factors in adapters.items():
                for part, value in zip(Factors._fields, factors, strict=True):
                    tensors[f"change/{group}/{when}/{path}/{part}"] = _copy(value)
    for name in _behind(federation):  # the others' base follows from their group's
        tensors |= {f"frozen/{name}/{n}": value for n, value in _changes(federation, name).items()}
    return tensors, {
        "versions": dict(aggregator.version),
        "clusters": {name: m.cluster for name, m in members.items() if m.cluster is not None},
        "change_versions": {
            group: list(change.rows)
            for group, change in aggregator.changes.items()
            if aggregator.method.CHANGES_BASE  # else no version has rows
        },
        "clients": {n: {"version": m.version, "delivered_sha256": m.delivered_sha256} for n, m in members.items()},
    }


@torch.no_grad()
def restore(federation: Federation, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Make a freshly built federation what it was when ``tensors`` and ``state`` were captured.

    Raises:
        ResourceError: the state is not that of this federation.
    """
    try:
        _restore(federation, tensors, state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ResourceError(f"the checkpoint is not of this experiment: {type(error).__name__}: {error}") from error


def _restore(federation: Federation, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    if state["clusters"]:
        regroup(federation, state["clusters"])
    federation.fingerprints = {
        name.removeprefix("fingerprint/"): torch.zeros_like(value)
        for name, value in tensors.items()
        if name.startswith("fingerprint/")
    }
    by_client: dict[str, dict[str, Tensor]] = {name: {} for name in federation.clients}
    rest = {}
    for key, value in tensors.items():
        kind, _, of_client = key.partition("/")
        if kind == "client":
            name, _, n = of_client.partition("/")
            by_client[name][n] = value
        elif kind not in ("change", "frozen"):
            rest[key] = value
    versions = federation.aggregator.version
    if state["versions"].keys() != versions.keys():
        raise ResourceError("the checkpoint is not of this experiment: other groups")
    _restore_clients(federation, by_client)
    moments = {key: rest.pop(key) for key in list(rest) if "/optimizer/" in key}
    take(dict(_shared(federation)), rest)
    for owner, optimizer in _of_server(federation):
        prefix = f"{owner}/optimizer/"
        load_moments(optimizer, {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)})
    federation.aggregator.version.update(state["versions"])
    for name, facts in state["clients"].items():
        member = federation.aggregator.members[name]
        member.version, member.delivered_sha256 = facts["version"], facts["delivered_sha256"]
    if federation.aggregator.method.CHANGES_BASE:
        changes = sorted(name for name in tensors if name.startswith(("change/", "frozen/")))
        _restore_changes(federation, {name: tensors[name] for name in changes}, state)


def _restore_clients(federation: Federation, by_client: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Clients that are away and are given the very same tensors are brought in once."""
    done: dict[tuple[object, ...], Member] = {}
    for name, tensors in by_client.items():
        member = federation.aggregator.members[name]
        kind = id(member.away), *(id(tensors[n]) for n in sorted(tensors))
        if federation.offload is not None and kind in done:
            federation.offload.become(name, done[kind])
            continue
        with federation.at_hand([name]):
            give(federation.clients[name], member.adapters, tensors)
        done[kind] = member


def _restore_changes(federation: Federation, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
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
    behind = set(_behind(federation))
    for name, member in aggregator.members.items():
        with federation.at_hand([name]):
            if name not in behind:
                aggregator.attach_base(name)
                continue
            prefix = f"frozen/{name}/"
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            member.adapters.frozen.clear()
            member.adapters.frozen.update(as_changes(own, device))


def _behind(federation: Federation) -> list[str]:
    """Clients that hold an older version of their group's adapter than the server has."""
    version, members = federation.aggregator.version, federation.aggregator.members
    return [name for name, member in members.items() if member.version != version[member.group]]


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
    if federation.server is not None:
        for group, trained in federation.server.groups.items():
            yield from named(f"server/{group}/", trained.adapters, trained.head)


def _of_away(federation: Federation, name: str, away: Away) -> dict[str, Tensor]:
    """The same of a client that is away, with the frozen parameters of its head."""
    lower, values = federation.plan.by_name[name].ranks, _stored(federation, away.sha256)
    adapters = {f"{path}.lora_{part}": path in lower for path in away.ranks for part in "AB"}
    return {
        **{n: values[n] for n, below in adapters.items() if below},
        **{f"head.{n}": values[f"head.{n}"] if value is None else value for n, value in away.head.items()},
        **{f"upper/{n}": values[n] for n, below in adapters.items() if not below},
    }


def _moments(federation: Federation, name: str) -> dict[str, Tensor]:
    away = federation.aggregator.members[name].away
    return _stored(federation, away.moments) if away else _copies(moments_in(federation.clients[name]).items())


def _changes(federation: Federation, name: str) -> dict[str, Tensor]:
    member = federation.aggregator.members[name]
    return _stored(federation, member.away.frozen) if member.away else _copies(changes_in(member).items())


def _stored(federation: Federation, key: str | None) -> dict[str, Tensor]:
    """What clients that are away own, as objects of this client's own: nobody writes to the store's tensors."""
    if federation.offload is None or key is None:
        return {}
    return {name: value.detach() for name, value in federation.offload.store.get(key).items()}


def _copies(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: _copy(value) for name, value in tensors}


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _of_server(federation: Federation) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """Its optimizers, by owner."""
    for group, trained in federation.server.groups.items() if federation.server is not None else ():
        if trained.optimizer is not None:
            yield f"server/{group}", trained.optimizer
