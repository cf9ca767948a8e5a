"""The task group of a client from its fingerprint: the nearest centroid of the others', after the mean is taken off."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F

from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence
from atlas_cli.audit.figures import Figure, Inapplicable, share_interval
from atlas_cli.wire.messages import Fingerprint


class Attack(BaseAttack):
    """Recovers the task groups of clients."""

    channel = "fingerprints"
    knows = "the task group of every other client"

    def attack(self, evidence: Evidence) -> Figure:
        """The share of clients whose group is found, each with its own fingerprint left out of the centroids."""
        sums: dict[str, torch.Tensor] = {}
        for message in evidence.messages:
            if message.type is Fingerprint:
                sums[message.client] = sums.get(message.client, 0) + message.read(Fingerprint).fingerprint.double()
        if not sums:
            raise Inapplicable("no fingerprints were recorded (section clustering, audit.record.rounds: [0])")
        groups = {client: evidence.federation.group_of(client) for client in sums}
        sizes = Counter(groups.values())
        if len(sizes) < 2:
            raise Inapplicable("all clients have one task group")
        centred = torch.stack(list(sums.values())) - torch.stack(list(sums.values())).mean(0)
        vectors = dict(zip(sums, F.normalize(centred, dim=1), strict=True))
        hits = []
        for client, vector in vectors.items():
            centroids = {}
            for group in sizes:
                others = [v for c, v in vectors.items() if groups[c] == group and c != client]
                if others:
                    centroids[group] = F.normalize(torch.stack(others).mean(0), dim=0) @ vector
            hits.append(float(max(centroids, key=lambda g: float(centroids[g])) == groups[client]))
        interval = share_interval(hits, [1.0] * len(hits))
        what, chance, floor = "clients whose task is found, share", 1 / len(sizes), max(sizes.values()) / len(hits)
        return self.figure(what, interval, chance=chance, examples=len(hits), floor=floor)
