"""The state of clustering in a run: the clusters, and the fingerprints by which they were found."""

from __future__ import annotations

import re
from typing import Any

import torch

from atlas_cli.clustering.regroup import regroup
from atlas_cli.config.schema.clustering import ClusteringConfig
from atlas_cli.federation.federation import Federation
from atlas_cli.storage.state_dict import (
    StateDict,
    copies,
    is_count,
    pop_prefix,
    require_tensor,
    require_value,
    tensors_and_values,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Clusters:
    """Which client is in which cluster, with the sum of each client's fingerprints so far.

    Args:
        rule: how clusters are found; it has ``size``, the numbers of a fingerprint.
    """

    def __init__(self, federation: Federation, rule: ClusteringConfig) -> None:
        self.federation, self.rule = federation, rule

    def state_dict(self) -> StateDict:
        """``names`` of the clusters, the number of its name for each of ``clients`` (neither before there are any), and
        ``fingerprint/<client>``."""
        found = [member.cluster for member in self.federation.aggregator.members.values()]
        names = [name for name in dict.fromkeys(found) if name is not None]
        numbers = {name: number for number, name in enumerate(names)}
        clients = [numbers[name] for name in found if name is not None]
        return {"names": names, "clients": clients, **copies("fingerprint/", self.federation.fingerprints)}

    def load_state_dict(self, state: StateDict) -> None:
        """Put every client into its cluster.

        Raises:
            StateError: other clients, or what is no cluster or no fingerprint.
        """
        tensors, values = tensors_and_values(state, ["names", "clients"])
        assignment = self._assignment(values["names"], values["clients"])
        fingerprints = pop_prefix("fingerprint/", tensors)
        for name in tensors:
            require_tensor(False, name, "is no fingerprint")
        for client, total in fingerprints.items():
            require_tensor(client in self.federation.clients, f"fingerprint/{client}", "is of no client")
            fits = total.shape == (self.rule.size,) and total.dtype == torch.float32
            require_tensor(fits, f"fingerprint/{client}", f"has shape {tuple(total.shape)} and type {total.dtype}")
        if assignment:
            regroup(self.federation, assignment)
        self.federation.fingerprints = {client: total.clone() for client, total in fingerprints.items()}

    def _assignment(self, names: Any, clients: Any) -> dict[str, str]:
        """Cluster by client; empty where there are none yet."""
        members = self.federation.aggregator.members
        named = isinstance(names, list) and all(isinstance(n, str) and _NAME.fullmatch(n) for n in names)
        require_value(named and len(set(names)) == len(names), "names", "are no names of clusters")
        require_value(isinstance(clients, list) and all(map(is_count, clients)), "clients", "are no whole numbers")
        in_order = list(dict.fromkeys(clients)) == list(range(len(names)))
        require_value(in_order, "clients", f"do not name each of the {len(names)} clusters in order")
        if not names:
            unclustered = all(member.cluster is None for member in members.values())
            require_value(unclustered, "names", "are none, and clients are in clusters")
            return {}
        require_value(len(clients) == len(members), "clients", f"are {len(clients)}, expected {len(members)}")
        return {client: names[number] for client, number in zip(members, clients, strict=True)}
