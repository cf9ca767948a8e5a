"""What a captured state must be before any of it is used: every field and tensor, by type, shape, range and hash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Factors
from atlas_cli.errors import ResourceError
from atlas_cli.experiment.saved_clients import PARTS, Kind
from atlas_cli.federation.client_state.unsound import STATE, TENSORS, Unsound, unsound
from atlas_cli.federation.federation import Federation
from atlas_cli.hashing import sha256_tensors

_KEYS = ("versions", "change_versions", "kinds", "clients")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_state(federation: Federation, state: Any) -> list[Kind]:
    """The kinds of clients that a state has.

    Raises:
        Unsound: a field is missing, or is not what it must be for this federation.
    """
    if not isinstance(state, Mapping) or set(state) != set(_KEYS):
        raise unsound(STATE, "it", f"has other keys than {', '.join(_KEYS)}")
    versions = state["versions"]
    _require(isinstance(versions, Mapping) and all(map(_count, versions.values())), "versions", "are no whole numbers")
    _check_rows(federation, state["change_versions"], versions)
    kinds, clients = state["kinds"], state["clients"]
    _require(isinstance(kinds, list), "kinds", "is no list")
    found = [_kind(each, f"kinds[{i}]") for i, each in enumerate(kinds)]
    _require(isinstance(clients, list) and all(map(_count, clients)), "clients", "is no list of whole numbers")
    n = len(federation.clients)
    _require(len(clients) == n, "clients", f"has {len(clients)} entries, and the experiment {n} clients")
    _require(set(clients) == set(range(len(kinds))), "clients", f"does not use each of the {len(kinds)} kinds")
    _check_clusters(federation, found, versions)
    for name, number in zip(federation.clients, clients, strict=True):
        group = found[number].cluster or federation.aggregator.members[name].task_group
        newest = versions.get(group)
        _require(newest is not None, "versions", f"has no {group!r:.60}, which client {name} is of")
        _require(
            found[number].version <= newest, f"kinds[{number}]", f"has version {found[number].version} of {newest}"
        )
    return found


def check_tensors(federation: Federation, tensors: Mapping[str, Tensor], kinds: Iterable[Kind]) -> None:
    """Every tensor is one that somebody holds, of finite numbers, and what is named by its hash has it.

    Raises:
        Unsound: one is not.
    """
    contents: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise unsound(TENSORS, name, f"has type {value.dtype}")
        if not value.isfinite().all():
            raise unsound(TENSORS, name, "is not finite")
        if name.endswith(("/exp_avg_sq", "/step")) and (value < 0).any():
            raise unsound(TENSORS, name, "is negative")
        part, _, rest = name.partition("/")
        if part in PARTS:
            sha256, _, own = rest.partition("/")
            contents.setdefault(f"{part}/{sha256}", {})[own] = value
        elif part == "fingerprint":
            _check_fingerprint(federation, name, value)
    wanted = {where for kind in kinds for where in kind.contents.values()}
    for where in sorted(contents.keys() ^ wanted):
        why = "is missing, which a client holds" if where in wanted else "is there, and no client holds it"
        raise unsound(TENSORS, where, why)
    for where, content in contents.items():
        if sha256_tensors(content) != where.partition("/")[2]:
            raise unsound(TENSORS, where, "is not what its hash says")
        for name, value in content.items() if where.startswith("held/") else ():
            if name.endswith("lora_A") and (value.dim() != 2 or not len(value)):
                raise unsound(TENSORS, f"{where}/{name}", f"has shape {tuple(value.shape)}")
        if where.startswith("frozen/"):
            _check_pairs(federation, where, content)


def check_changes(federation: Federation, tensors: Mapping[str, Tensor], versions: Mapping[str, list[int]]) -> None:
    """What changed the base is there by group and version, as pairs that fit its layers.

    Raises:
        Unsound: it is not, or there is more.
    """
    known = {f"change/{group}/{when}/" for group, rows in versions.items() for when in ("total", *rows)}
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith("change/"):
            continue
        where = next((prefix for prefix in known if name.startswith(prefix)), None)
        if where is None:
            raise unsound(TENSORS, name, "is of no group and version")
        path, _, part = name.removeprefix(where).rpartition("/")
        pairs.setdefault(where, {})[f"{path}/0/{part}"] = value
    for where, content in pairs.items():
        _check_pairs(federation, where.rstrip("/"), content)


def unfit(where: str, error: Exception) -> ResourceError:
    """The error of a checkpoint that cannot be used."""
    why = str(error) if isinstance(error, Unsound) else _one_line(error)
    return ResourceError(f"{where} is not of this experiment: {why}")


def _require(holds: bool, field: str, why: str) -> None:
    if not holds:
        raise unsound(STATE, field, why)


def _one_line(error: Exception) -> str:
    """What another library says of a state that passed all checks and still does not fit."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _check_rows(federation: Federation, rows: Any, versions: Mapping[str, int]) -> None:
    wanted = versions.keys() if federation.aggregator.method.CHANGES_BASE else set()
    _require(isinstance(rows, Mapping) and rows.keys() == wanted, "change_versions", "are of other groups")
    for group, each in rows.items():
        whole = isinstance(each, list) and all(map(_count, each))
        _require(whole and each == sorted(set(each)), f"change_versions.{group}", "are no versions in order")
        _require(not each or each[-1] <= versions[group], f"change_versions.{group}", "has one that is still to come")


def _kind(fields: Any, where: str) -> Kind:
    _require(isinstance(fields, list) and len(fields) == len(Kind._fields), where, f"is not {', '.join(Kind._fields)}")
    kind = Kind(*fields)
    _require(kind.cluster is None or isinstance(kind.cluster, str), f"{where}.cluster", "is no name")
    _require(type(kind.version) is int and kind.version >= -1, f"{where}.version", "is no whole number from -1 on")
    for name in ("delivered_sha256", "held", "moments", "frozen"):
        value = getattr(kind, name)
        fits = isinstance(value, str) and _SHA256.fullmatch(value) is not None
        _require(fits or (value is None and name != "held"), f"{where}.{name}", "is no SHA-256")
    return kind


def _check_clusters(federation: Federation, kinds: list[Kind], versions: Mapping[str, int]) -> None:
    clusters = {kind.cluster for kind in kinds}
    if None in clusters:
        _require(clusters == {None}, "kinds", "have clients in clusters and others in none")
        _require(versions.keys() == set(federation.group_names), "versions", "are not those of the task groups")
        return
    _require(federation.config.clustering is not None, "kinds", "have clusters, and the config asks for none")
    _require(versions.keys() == clusters, "versions", "are not those of the clusters")


def _check_fingerprint(federation: Federation, name: str, value: Tensor) -> None:
    rule, client = federation.config.clustering, name.partition("/")[2]
    if rule is None or client not in federation.clients:
        raise unsound(TENSORS, name, "is a fingerprint of nobody")
    if value.shape != (rule.size,) or value.dtype != torch.float32:
        raise unsound(TENSORS, name, f"has shape {tuple(value.shape)} and type {value.dtype}")


def _check_pairs(federation: Federation, where: str, content: Mapping[str, Tensor]) -> None:
    """Pairs A (r, d_in), B (d_out, r) by ``<path>/<number>``, the numbers of a path from 0 on."""
    features = federation.aggregator.features
    numbers: dict[str, list[int]] = {}
    for name in content:
        path, number, part = [*name.rsplit("/", 2), "", ""][:3]
        if path not in features or part not in Factors._fields or not number.isdecimal():
            raise unsound(TENSORS, f"{where}/{name}", "is of no layer that has adapters")
        if part == "A":
            numbers.setdefault(path, []).append(int(number))
    for name, each in _pairs(content):
        d_in, d_out = features[name.rpartition("/")[0]]
        shapes = [None if value is None else tuple(value.shape) for value in each]
        rank = shapes[0][0] if shapes[0] else 0
        if shapes != [(rank, d_in), (d_out, rank)]:
            raise unsound(TENSORS, f"{where}/{name}", f"has shapes {shapes}, expected (r, {d_in}) and ({d_out}, r)")
    if gaps := [path for path, each in numbers.items() if sorted(each) != list(range(len(each)))]:
        raise unsound(TENSORS, f"{where}/{gaps[0]}", "has a piece missing")


def _pairs(content: Mapping[str, Tensor]) -> Iterator[tuple[str, list[Tensor | None]]]:
    for name in dict.fromkeys(name.rpartition("/")[0] for name in content):
        yield name, [content.get(f"{name}/{part}") for part in Factors._fields]
