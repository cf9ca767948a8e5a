"""Clipping and Gaussian noise on client updates: client-level differential privacy (McMahan et al., 1710.06963).

An update is what a client sends at the end of a round less what it was delivered, over all that it sends together:
adapters as scale-free factors (s B counts, not B), and the head where clients send one. The client clips it to norm C.

    where: client   the client adds N(0, (z C)^2) to each number that it sends; any method may merge what comes
    where: server   the server takes the mean of changes over a fixed denominator n, the size of the cohort, and adds
                    N(0, (z C / n)^2):  theta <- theta + (1/n) sum_k pad(clip(delta_k)) + noise
                    The method gets this one result as if one client of the largest rank had sent it.

n does not depend on who is left in a round: who is dropped counts as a change of 0. Neighbouring runs differ by one
client, whose updates are all 0 in the other (who takes part is known, Kairouz et al., 2103.00039, section 2); so the
sensitivity is C for one round, and a client is used in as many rounds as its cohort is drawn. Nothing is amplified by
sampling. Epsilon is what this channel adds to what other channels tell.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import PARTS, Adapters, Factors, Update
from atlas_cli.config.schema.privacy import UpdatesConfig
from atlas_cli.double import double
from atlas_cli.privacy.account.norms import Norms, mean_norms, ratio
from atlas_cli.privacy.mechanisms.contract import BaseMechanism
from atlas_cli.seeding import torch_generator


class Mechanism(BaseMechanism):
    """Clips client updates and adds Gaussian noise."""

    channel = "updates"
    unit = "client"
    protects = "all that a client sent at the end of rounds"
    Options = UpdatesConfig

    @classmethod
    def promise(cls, options: UpdatesConfig) -> str:
        """What the mechanism protects; from whom depends on who adds the noise."""
        others = "those who get merged adapters; the server is trusted"
        return f"{cls.protects}, from {others if options.where == 'server' else 'everybody, the server as well'}"


Tensors = Mapping[str, Tensor]


class UpdateNoise:
    """Clips and perturbs the updates that clients send.

    Args:
        clip: C.
        multiplier: z.
        where: who adds the noise.
        seed: the seed of the run; whoever knows it can remove the noise.
        denominators: the fixed denominator n of each group.

    Attributes:
        norms: those of the updates of a round, by client; ``merged``: (signal, noise), the norms of a group's mean of
            changes and of the noise on it, if the server adds it.
    """

    def __init__(
        self,
        clip: float,
        multiplier: float,
        where: Literal["server", "client"],
        seed: int,
        denominators: Mapping[str, int],
    ) -> None:
        self.clip, self.multiplier, self.where = clip, multiplier, where
        self.seed, self.denominators = seed, dict(denominators)
        self.norms: dict[str, Norms] = {}
        self.merged: dict[str, tuple[float, float]] = {}
        self._round = 0
        self._start: dict[str, dict[str, Tensor]] = {}

    def begin(self, number: int, held: Mapping[str, Tensors]) -> None:
        """Store the tensors that were delivered to each client of a round, by client and name."""
        self._round = number
        self._start = {client: {name: t.clone() for name, t in tensors.items()} for client, tensors in held.items()}
        self.norms, self.merged = {}, {}

    def protect(self, client: str, sent: Tensors, scales: Mapping[str, float]) -> dict[str, Tensor]:
        """The tensors that a client sends instead of ``sent``; ``norms`` is set to those of its update."""
        start = self._start[client]
        units = {name: scales[name.removesuffix(".lora_B")] if name.endswith(".lora_B") else 1.0 for name in sent}
        changes = {name: tensor - start[name] for name, tensor in sent.items()}

        def norm_of(tensors: Tensors) -> float:
            return _norm(units[name] * tensor for name, tensor in tensors.items())

        norm = norm_of(changes)
        kept = min(1.0, self.clip / norm) if norm > 0 else 1.0
        protected = {name: start[name] + kept * change for name, change in changes.items()}
        self.norms[client] = Norms(norm, kept * norm, kept * norm, float(norm > self.clip), None)
        if self.where == "client":
            generator, noises = torch_generator(self.seed, "privacy-updates", client, self._round), {}
            for name, tensor in protected.items():
                noises[name] = _normal(tensor, self.multiplier * self.clip / units[name], generator)
                protected[name] = tensor + noises[name]
            noisy = norm_of({name: tensor - start[name] for name, tensor in protected.items()})
            added = ratio(norm_of(noises), kept * norm)
            self.norms[client] = replace(self.norms[client], sent=noisy, noise_to_signal=added)
        return protected

    def mean(
        self,
        group: str,
        current: Adapters,
        head: Tensors,
        parts: Collection[str],
        updates: Sequence[Update],
        sent: Mapping[str, Tensors],
    ) -> tuple[list[Update], dict[str, dict[str, Tensor]]]:
        """The noisy mean of changes: one update for the adapters, and heads as each client would have sent them.

        Args:
            current, head: the group's former adapter and head; each client was delivered their first rows and columns.
            parts: the parts of adapters, "A" and "B", that clients send.
            updates, sent: the clipped values of each client, as scale-free factors and as sent.
        """
        generator = torch_generator(self.seed, "privacy-updates", group, self._round)
        n = self.denominators[group]
        deviation = self.multiplier * self.clip / n
        result, signals, noises = {}, [], []
        for path, before in current.items():
            A, B = before.A.clone(), before.B.clone()
            for factors in (u.adapters[path] for u in updates if path in u.adapters):
                A[: factors.rank] += (factors.A - before.A[: factors.rank]) / n
                B[:, : factors.rank] += (factors.B - before.B[:, : factors.rank]) / n
            for part, value, old in zip(PARTS, (A, B), before, strict=True):
                if part in parts:
                    signals.append(value - old)
                    noises.append(_normal(value, deviation, generator))
                    value += noises[-1]
            result[path] = Factors(A, B)
        heads = {}
        for name, value in head.items():
            change = sum((tensors[name] - value for tensors in sent.values()), torch.zeros_like(value))
            signals.append(change / n)
            noises.append(_normal(value, deviation, generator))
            heads[name] = value + signals[-1] + noises[-1]
        self.merged[group] = _norm(signals), _norm(noises)
        return [Update(f"mean of {n} clients", 1.0, result)], {client: heads for client in sent}

    def mean_norms(self, clients: Collection[str], groups: Collection[str]) -> Norms | None:
        """Mean norms over ``clients``; the server's noise is compared with the mean of changes of ``groups``."""
        each = [self.norms[client] for client in clients if client in self.norms]
        if not each:
            return None
        found = mean_norms(each)
        if merged := [self.merged[group] for group in groups if group in self.merged]:
            signal, noise = (math.sqrt(sum(norm**2 for norm in norms)) for norms in zip(*merged, strict=True))
            found = replace(found, noise_to_signal=ratio(noise, signal))
        return found


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(double(tensor).square().sum()) for tensor in tensors))


def _normal(like: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return (deviation * torch.randn(like.shape, generator=generator)).to(like.device, like.dtype)
