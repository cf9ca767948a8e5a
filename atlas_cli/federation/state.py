"""The state of a federation as named tensors and JSON: all that does not follow from config, seed and round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from atlas_cli.aggregation._base import Factors
from atlas_cli.errors import ResourceError
from atlas_cli.federation.client import SplitClient
from atlas_cli.federation.parties import Federation
from atlas_cli.federation.pruning import shrink
from atlas_cli.federation.regroup import regroup
from atlas_cli.federation.unsplit import UnsplitClient
from atlas_cli.models.lora import AdapterSet


class Copies:
    """Copies of what clients hold, by its hash: clients that hold the same have one, and it lasts as long as any do."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], dict[str, Tensor]] = {}

    def of_clients(self, federation: Federation) -> dict[str, Tensor]:
        """Every trained tensor of every client by name; names of equal clients have the very same tensors."""
        before, self._kept = self._kept, {}
        tensors: dict[str, Tensor] = {}
        for name, client in federation.clients.items():
            # a frozen head that is not hashed with the rest is that of the client's base
            content = federation.aggregator.members[name].held_sha256(), id(client.base)
            if content not in self._kept:
                self._kept[content] = before.get(content) or {n: _copy(value) for n, value in _of_client(client)}
            tensors |= {f"client/{name}/{n}": value for n, value in self._kept[content].items()}
        return tensors


def capture(federation: Federation, copies: Copies | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of every trained tensor and optimizer moment, and the versions that clients hold.

    Args:
        copies: those of the capture before, which are used again for clients that hold what they held.
    """
    tensors = {name: _copy(value) for name, value in _shared(federation)}
    tensors |= (copies or Copies()).of_clients(federation)
    for owner, optimizer in _optimizers(federation):
        for index, state in optimizer.state_dict()["state"].items() if optimizer.state else ():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{owner}/optimizer/{index}/{key}"] = _copy(value)
    aggregator = federation.aggregator
    members = aggregator.members
    for group, change in aggregator.changes.items():
        for when, adapters in (("total", change.total), *change.rows.items()):
            for path, factors in adapters.items():
                for part, value in zip(Factors._fields, factors, strict=True):
                    tensors[f"change/{group}/{when}/{path}/{part}"] = _copy(value)
    for name in _behind(federation):  # the others' base follows from their group's
        for path, pieces in members[name].adapters.frozen.items():
            for i, (A, B) in enumerate(pieces):
                tensors[f"frozen/{name}/{path}/{i}/A"] = _copy(A)
                tensors[f"frozen/{name}/{path}/{i}/B"] = _copy(B)
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
    for name, party in federation.clients.items():
        held = federation.aggregator.members[name].adapters
        shorter = {}
        for path, adapter in held.adapters.items():
            for key in (f"client/{name}/{path}.lora_A", f"client/{name}/upper/{path}.lora_A"):
                if key in tensors and tensors[key].shape[0] < adapter.rank:
                    shorter[path] = tensors[key].shape[0]
        shrink(party, held, shorter)
    expected = dict(_trained(federation))
    moments = {name for name in tensors if "/optimizer/" in name}
    changes = {name for name in tensors if name.startswith(("change/", "frozen/"))}
    versions = federation.aggregator.version
    if expected.keys() != tensors.keys() - moments - changes or state["versions"].keys() != versions.keys():
        raise ResourceError("the checkpoint is not of this experiment: other clients, groups or adapters")
    for name, value in expected.items():
        if value.shape != tensors[name].shape or value.dtype != tensors[name].dtype:
            raise ResourceError(f"the checkpoint is not of this experiment: {name} has another shape or type")
        value.copy_(tensors[name])
    by_owner: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name in sorted(moments):
        owner, _, rest = name.partition("/optimizer/")
        index, key = rest.split("/")
        by_owner.setdefault(owner, {}).setdefault(int(index), {})[key] = tensors[name].clone()
    for owner, optimizer in _optimizers(federation):
        found = by_owner.get(owner, {})
        if not found and not optimizer.state:
            continue
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, moment in ((i, m) for i, each in found.items() for m in each.values()):
            if moment.dim() and moment.shape != parameters[number].shape:
                raise ResourceError(f"the checkpoint is not of this experiment: a moment of {owner} has another shape")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": found})
    federation.aggregator.version.update(state["versions"])
    for name, facts in state["clients"].items():
        member = federation.aggregator.members[name]
        member.version, member.delivered_sha256 = facts["version"], facts["delivered_sha256"]
    if federation.aggregator.method.CHANGES_BASE:
        _restore_changes(federation, {name: tensors[name] for name in sorted(changes)}, state)


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
        if name not in behind:
            aggregator.attach_base(name)
            continue
        member.adapters.frozen.clear()
        for key in (n for n in tensors if n.startswith(f"frozen/{name}/") and n.endswith("/A")):
            path = key.split("/")[2]
            pair = (tensors[key].to(device), tensors[f"{key[:-1]}B"].to(device))
            member.adapters.frozen[path] = [*member.adapters.frozen.get(path, ()), pair]


def _behind(federation: Federation) -> list[str]:
    """Clients that hold an older version of their group's adapter than the server has."""
    version, members = federation.aggregator.version, federation.aggregator.members
    return [name for name, member in members.items() if member.version != version[member.group]]


def _trained(federation: Federation) -> Iterator[tuple[str, Tensor]]:
    """Every trained tensor by name; writing to one changes the federation."""
    yield from _shared(federation)
    for name, client in federation.clients.items():
        yield from ((f"client/{name}/{n}", value) for n, value in _of_client(client))


def _shared(federation: Federation) -> Iterator[tuple[str, Tensor]]:
    """Those that are no client's."""
    aggregator = federation.aggregator
    for group, merged in aggregator.merged.items():
        for path, factors in merged.items():
            for part, value in zip(Factors._fields, factors, strict=True):
                yield f"merged/{group}/{path}/{part}", value
        yield from _named(f"group/{group}/", aggregator.groups[group], None)
    for part, head in aggregator.heads.items():
        yield from _named(f"group/{part}/", AdapterSet({}), head)
    for name, total in federation.fingerprints.items():
        yield f"fingerprint/{name}", total
    if federation.server is not None:
        for group, trained in federation.server.groups.items():
            yield from _named(f"server/{group}/", trained.adapters, trained.head)


def _of_client(client: SplitClient | UnsplitClient) -> Iterator[tuple[str, Tensor]]:
    yield from _named("", client.adapters, client.head)
    if isinstance(client, UnsplitClient):
        yield from _named("upper/", client.upper, None)


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _named(prefix: str, adapters: AdapterSet, head: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    for name, value in adapters.state().items():
        yield f"{prefix}{name}", value
    for name, parameter in head.named_parameters() if head is not None else ():
        yield f"{prefix}head.{name}", parameter.detach()


def _optimizers(federation: Federation) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    for name, client in federation.clients.items():
        for i, optimizer in enumerate(client.optimizers()):
            yield f"client/{name}/{i}", optimizer
    if federation.server is not None:
        for group, trained in federation.server.groups.items():
            if trained.optimizer is not None:
                yield f"server/{group}", trained.optimizer
