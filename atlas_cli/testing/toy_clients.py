"""Clients of unequal ranks and scales on two small layers, pulled towards targets of their own, and their merges.

What the tests of ``conformance`` train: no model, plain gradient steps, and what the method does at clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atlas_cli.aggregation.client_gradients import apply_term, factors_of
from atlas_cli.aggregation.contract import (
    PARTS,
    Adapters,
    BaseMethod,
    Context,
    ExtraTensors,
    Factors,
    Layer,
    Merge,
    Parts,
    Update,
    delta,
    release,
    scales_of,
    truncated,
)
from atlas_cli.aggregation.low_rank import stack
from atlas_cli.aggregation.selection import as_run, components, others, picked
from atlas_cli.models.adapters.lora import LORA, AdapterForm, AdapterSet

LAYERS = {"q": (9, 7), "v": (6, 8)}  # (d_in, d_out)
RANKS = {"a": 2, "b": 4, "c": 1}
WEIGHTS = {"a": 3.0, "b": 1.0, "c": 2.0}
RATE, STEPS = 0.05, 3


class ToyGroup:
    """Clients whose dW are pulled towards targets, and the method that merges them."""

    def __init__(
        self,
        method: BaseMethod,
        ranks: Mapping[str, int],
        *,
        dtype: torch.dtype = torch.float32,
        factor: float = 1.0,
        steps: int = STEPS,
        alike: bool = False,
        alpha: float | None = None,
    ) -> None:
        self.method, self.steps, self.number, self.form = method, steps, 0, method.form()
        self.shares = {client: factor * WEIGHTS[client] for client in ranks}
        by_rank = {r: {p: self.form.components(r, *sizes) for p, sizes in LAYERS.items()} for r in ranks.values()}
        self.held = {
            c: _adapters(self.form, by_rank[r], alpha or 2.0 + i, dtype) for i, (c, r) in enumerate(ranks.items())
        }
        self.terms = {client: method.client_term() for client in ranks}
        most = {path: self.form.of_group(most) for path, most in by_rank[max(ranks.values())].items()}
        self._whole = _adapters(self.form, most, 1.0, dtype)
        self.current: Adapters = factors_of(self._whole)
        self.base: dict[str, Factors] = {}
        draw = torch.Generator().manual_seed(3)
        targets = {
            c: {p: torch.randn(d_out, d_in, generator=draw) for p, (d_in, d_out) in LAYERS.items()} for c in "abc"
        }
        self.targets = {c: {p: t.to(dtype) for p, t in targets["a" if alike else c].items()} for c in ranks}
        for client in ranks if method.SELECTS else ():
            self.deliver(client)

    @property
    def parts(self) -> Parts:
        """What clients train and exchange for the next merge."""
        return self.method.parts_of(self.number + 1)

    def layers(self, client: str) -> dict[str, Layer]:
        """The sizes of a client's adapters."""
        return {path: Layer(a.rank, *self.form.sizes(*LAYERS[path])) for path, a in self.held[client].adapters.items()}

    def told(self, client: str) -> ExtraTensors:
        """What the method tells of a client's tensors."""
        return self.method.extra_tensors(self.layers(client))

    def weights(self, clients: Sequence[str]) -> dict[str, dict[int, float]]:
        """By layer and rank."""
        by_rank: dict[int, float] = {}
        for client in clients:
            rank = self.layers(client)["q"].rank
            by_rank[rank] = by_rank.get(rank, 0.0) + self.shares[client]
        return dict.fromkeys(LAYERS, by_rank)

    def updates(self, clients: Sequence[str] | None = None) -> list[Update]:
        """Local steps of a round, and what is sent after them."""
        for client in clients or list(self.held):
            self.train(client)
        return [self.sent(client) for client in clients or list(self.held)]

    def train(self, client: str) -> None:
        """The delivery of tensors besides adapters, and local steps."""
        self.held[client].train_only(self.parts.trained)
        if (term := self.terms[client]) is not None:
            term.receive(self.method.extras_for("g", self.layers(client)))
            term.begin_round(factors_of(self.held[client]))
        for _ in range(self.steps):
            self.step(client)

    def sent(self, client: str) -> Update:
        """What a client sends after its steps; a part that it does not send is the server's own idea of it."""
        term, trained = self.terms[client], factors_of(self.held[client])
        known = truncated(self.offered(client), {path: factors.rank for path, factors in trained.items()})
        adapters = {
            path: Factors(*(f[i] if part in self.parts.sent else known[path][i] for i, part in enumerate(PARTS)))
            for path, f in trained.items()
        }
        selected, extras = self.selected(client), term.end_round(trained) if term is not None else {}
        return Update(
            client, self.shares[client], as_run(self.current, selected, adapters), extras, components=selected
        )

    def step(self, client: str) -> None:
        """One gradient step of a client."""
        adapters = self.held[client]
        loss = torch.zeros(())
        for path, adapter in adapters.adapters.items():
            A, B = adapter.factors()
            loss = loss + (delta(Factors(A, adapter.scaling * B)) - self.targets[client][path]).square().mean()
        for parameter in adapters.parameters():
            parameter.grad = None
        loss.backward()
        if (term := self.terms[client]) is not None:
            apply_term(term, adapters)
        with torch.no_grad():
            for parameter in adapters.trained():
                if parameter.grad is not None:
                    parameter.sub_(RATE * parameter.grad)

    def aggregate(self, updates: Sequence[Update]) -> Merge:
        """The merge of a round."""
        number, weights = self.number + 1, self.weights(list(self.held))
        return self.method.aggregate(self.current, updates, Context("g", number, weights, number))

    def take(self, merge: Merge, clients: Sequence[str] | None = None) -> None:
        """Deliver a merge."""
        self.number += 1
        self.current = merge.adapters
        for path, factors in merge.base.items():
            before = [(1.0, self.base[path])] if path in self.base else []
            self.base[path] = stack([*before, (1.0, factors)], factors.A.dtype)
        for client in clients or list(self.held) if self.method.SENT else ():
            self.deliver(client)

    def selected(self, client: str) -> dict[str, Sequence[int]]:
        """The components that a client trains for the next merge, if the method ``SELECTS``."""
        ranks = {path: layer.rank for path, layer in self.layers(client).items()}
        return components(self.method, client, self.number + 1, ranks, self.current)

    def offered(self, client: str) -> Adapters:
        """That of which a client trains the first r components."""
        return {**self.current, **picked(self.current, self.selected(client))}

    def deliver(self, client: str) -> None:
        """Give a client what it trains next."""
        adapters = self.held[client]
        ranks = {path: layer.rank for path, layer in self.layers(client).items()}
        got = self.method.deliver(self.offered(client), factors_of(adapters), ranks)
        adapters.load(release(got, scales_of(adapters)))

    def round(self, clients: Sequence[str] | None = None) -> None:
        """Local steps, merge and delivery."""
        self.take(self.aggregate(self.updates(clients)), clients)

    def run_by(self, client: str, path: str) -> Tensor:
        """dW that a client computes with: its adapter, and the changed base less what its adapter was worth, or the
        components that it does not train."""
        own = factors_of(self.held[client])[path]
        if (beside := others(self.current, self.selected(client))).get(path) is not None:
            return self.worth(path, own) + self.worth(path, beside[path])
        if self.form != LORA:
            return self.worth(path, own)
        if not self.method.CHANGES_BASE:
            return delta(own)
        return delta(own) + delta(self.base[path]) - delta(truncated(self.current, {path: own.rank})[path])

    def worth(self, path: str, factors: Factors) -> Tensor:
        """dW of components of an adapter, as scale-free factors."""
        return delta(Factors(*self._whole.adapters[path].beside(*factors)))

    def made_anew(self, method: BaseMethod) -> None:
        """Replace the method and all terms by new ones with their states."""
        method.load_state_dict({name: value.clone() for name, value in self.method.state_dict().items()})
        for client, term in self.terms.items():
            new = method.client_term()
            assert (new is None) == (term is None)
            if new is not None and term is not None:
                new.load_state_dict({name: value.clone() for name, value in term.state_dict().items()})
            self.terms[client] = new
        self.method = method


def _adapters(form: AdapterForm, ranks: Mapping[str, int], alpha: float, dtype: torch.dtype) -> AdapterSet:
    options: Any = {"alpha": alpha, "dropout": 0.0, "rslora": False, "seed": 0}
    made = {path: form.build(*LAYERS[path], rank, path=path, **options) for path, rank in ranks.items()}
    return AdapterSet({path: adapter.to(dtype) for path, adapter in made.items()})
