"""Tests that every aggregation method must pass, for its author to run: one line in a pytest file of theirs.

    TestFactorMedian = conformance(Method)
    TestTrimmed = conformance(Method, trim=0.3)

No model is loaded: clients of unequal ranks and scales train adapters of two layers towards targets of their own, by
plain gradient steps, with what the method does at clients. What fails says which promise of ``contract.BaseMethod`` is
not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from atlas_cli.aggregation.checks import require_parts
from atlas_cli.aggregation.client_gradients import factors_of
from atlas_cli.aggregation.contract import (
    PARTS,
    TURNS,
    BaseMethod,
    Context,
    Factors,
    Layer,
    Merge,
    Parts,
    Shapes,
    Update,
    delta,
    truncated,
)
from atlas_cli.plugins import check
from atlas_cli.testing.toy_clients import LAYERS, RANKS, WEIGHTS, ToyGroup


def conformance(method: type[BaseMethod], **options: Any) -> type[Conformance]:
    """A class of tests of a method, for pytest to find under a name that begins with ``Test``.

    Args:
        method: the class ``Method`` of its file.
        options: as under ``aggregation.options``.
    """
    return type("Conformance", (Conformance,), {"method_type": method, "options": options})


class Conformance:
    """The tests, one promise each; ``conformance`` makes a class of them for a method."""

    method_type: ClassVar[type[BaseMethod]]
    options: ClassVar[Mapping[str, Any]]

    def made(self) -> BaseMethod:
        """The method as at the start of a run."""
        return self.method_type(self.method_type.Options.model_validate(dict(self.options)))

    def group(self, ranks: Mapping[str, int] | None = None, **changes: Any) -> ToyGroup:
        """Clients before their first round."""
        return ToyGroup(self.made(), RANKS if ranks is None else ranks, **changes)

    def test_it_says_what_the_contract_asks(self) -> None:
        """Names, types and hooks are the contract's, and what it says of itself fits together."""
        check(self.method_type, BaseMethod)
        method = self.made()
        assert {*method.SENT, *method.DELIVERED, *method.TRAINED} <= set(PARTS)
        assert set(method.SENT) <= set(method.TRAINED), "a part that is not trained need not be sent"
        turns = [method.parts_of(merge) for merge in TURNS]
        assert turns == [method.parts_of(merge + 2) for merge in TURNS], "parts_of differs by more than odd and even"
        whole = Parts(method.TRAINED, method.SENT, method.DELIVERED)
        for name, ever in whole._asdict().items():
            assert {part for turn in turns for part in getattr(turn, name)} == set(ever), f"parts_of and {name} differ"
        assert len({len(turn.trained) for turn in turns}) == 1, "as many parts are trained for each merge"
        assert method.SENT or not (method.DELIVERED or method.CHANGES_BASE), "nothing is merged where nothing is sent"
        require_parts(self.method_type)
        assert method.UNWEIGHTED or not method.EQUAL_CLIENTS, "say in UNWEIGHTED what is done instead of weighing"

    def test_a_merge_keeps_shapes_and_layers(self) -> None:
        """Of the group's adapter, in its type; a layer that nobody sent is as it was."""
        for dtype in (torch.float32, torch.float64):
            group = self.group(dtype=dtype)
            before = group.current
            merge = group.aggregate([_without(update, "v") for update in group.updates()])
            assert merge.adapters.keys() == before.keys()
            for path, factors in merge.adapters.items():
                for value, old in zip(factors, before[path], strict=True):
                    assert (value.shape, value.dtype) == (old.shape, old.dtype), f"{path} is not as it was before"
                    assert value.isfinite().all()
            for value, old in zip(merge.adapters["v"], before["v"], strict=True):
                assert torch.equal(value, old), "a layer that nobody sent has changed"

    def test_what_it_is_given_stays(self) -> None:
        """Neither the group's adapter nor what clients sent is written to."""
        group = self.group()
        updates = group.updates()
        given = [group.current, *(update.adapters for update in updates)]
        copies = [{p: Factors(*(t.clone() for t in f)) for p, f in adapters.items()} for adapters in given]
        group.aggregate(updates)
        for adapters, kept in zip(given, copies, strict=True):
            assert all(torch.equal(t, c) for p in kept for t, c in zip(adapters[p], kept[p], strict=True))

    def test_a_merge_depends_on_nothing_else(self) -> None:
        """The same merge from the same state, bit for bit: no generator of its own, no order of a set."""
        first, second = self.group(), self.group()
        for group in (first, second):
            group.round()
        _require_equal(first, second)

    def test_the_order_of_clients_does_not_matter(self) -> None:
        """To rounding."""
        results = []
        for turned in (False, True):
            group = self.group(dtype=torch.float64)
            updates = group.updates()
            results.append(_worth(group, group.aggregate(updates[::-1] if turned else updates)))
        for path in LAYERS:
            torch.testing.assert_close(results[0][path], results[1][path], rtol=1e-7, atol=1e-9)

    def test_weights_count_by_their_ratio(self) -> None:
        """Ten times as many examples for all clients change nothing."""
        results = []
        for factor in (1.0, 10.0):
            group = self.group(dtype=torch.float64, factor=factor)
            results.append(_worth(group, group.aggregate(group.updates())))
        for path in LAYERS:
            torch.testing.assert_close(results[0][path], results[1][path], rtol=1e-7, atol=1e-9)

    def test_clients_that_train_the_same_get_it(self) -> None:
        """One client, and several that are alike, where the method says so (``FIXED_POINT``)."""
        method = self.made()
        if not (method.FIXED_POINT and method.SENT):
            return
        for clients in (["a"], ["a", "b", "c"]):
            group = self.group(dict.fromkeys(clients, 4), dtype=torch.float64, alike=True, alpha=8.0)
            updates = group.updates()
            trained = {path: group.worth(path, factors) for path, factors in factors_of(group.held["a"]).items()}
            group.take(group.aggregate(updates))
            for path, wanted in trained.items():
                torch.testing.assert_close(group.run_by("a", path), wanted, rtol=1e-3, atol=1e-5)

    def test_a_delivery_has_the_receivers_ranks(self) -> None:
        """At every rank, for the layers that it adapts; a part that is not delivered is what the client has."""
        group = self.group()
        merge, method = group.aggregate(group.updates()), group.method
        for rank in range(1, group.current["q"].rank + 1):
            for ranks in ({"q": rank}, {"q": rank, "v": 1}):
                held = {p: Factors(f.A + 1, f.B + 1) for p, f in truncated(group.current, ranks).items()}
                got = method.deliver(merge.adapters, held, ranks)
                assert got.keys() == ranks.keys()
                for path, (A, B) in got.items():
                    of_row, of_column = group.form.sizes(*LAYERS[path])
                    assert A.shape == (ranks[path], of_row) and B.shape == (of_column, ranks[path])
                    if "B" in method.TRAINED and "B" not in method.DELIVERED and method.SENT and not method.DRAWS:
                        assert torch.equal(B, held[path].B), "B is trained and not delivered, so it is the client's own"
        for path, factors in group.current.items() if method.DRAWS else ():
            first, again = (method.drawn(factors, path, "g", 1) for _ in range(2))
            assert all(torch.equal(t, u) for t, u in zip(first, again, strict=True)), "both sides must draw alike"

    def test_nothing_trained_is_nothing_merged(self) -> None:
        """With B = 0 everywhere, as before training, nothing is lost, and nothing that is not finite comes of it."""
        group = self.group(steps=0)
        worth = _worth(group, group.aggregate(group.updates()))
        assert all(torch.equal(value, torch.zeros_like(value)) for value in worth.values())

    def test_heads_that_are_alike_stay(self) -> None:
        """And the order of clients does not matter to those that are not."""
        method, draw = self.made(), torch.Generator().manual_seed(0)
        values, shares = [torch.randn(3, 4, generator=draw) for _ in WEIGHTS], [w / 6 for w in WEIGHTS.values()]
        torch.testing.assert_close(method.merge_values([values[0]] * 3, shares), values[0])
        merged = method.merge_values(values, shares)
        assert merged.shape == (3, 4)
        torch.testing.assert_close(method.merge_values(values[::-1], shares[::-1]), merged)

    def test_its_state_is_all_that_it_remembers(self) -> None:
        """A method and terms that are made anew and given their states go on alike, bit for bit."""
        first, second = self.group(), self.group()
        for group in (first, second):
            group.round()
            group.round(["a", "c"])
        second.made_anew(self.made())
        for group in (first, second):
            group.round(["b", "c"])
        _require_equal(first, second)
        for group in (first, second):
            group.train("a")
        second.made_anew(self.made())  # in the middle of a round, too
        ends = [group.sent("a") for group in (first, second)]
        assert all(torch.equal(value, ends[1].extras[name]) for name, value in ends[0].extras.items())

    def test_tensors_besides_adapters_are_those_it_tells(self) -> None:
        """What crosses the wire, what a client keeps and what the server keeps, by name and shape, in float32."""
        group = self.group()
        for clients in (list(RANKS), ["b"], ["a", "c"]):
            for client in clients:
                layers = group.layers(client)
                told = group.method.extra_tensors(layers)
                _require_shapes(group.method.extras_for("g", layers), told.down, "delivered")
                group.train(client)
                _require_kept(group, client)
                _require_shapes(group.sent(client).extras, told.up, "sent")
                _require_kept(group, client)
            group.round(clients)
            kept = group.method.state_dict()
            whole = {path: Layer(factors.rank, *LAYERS[path]) for path, factors in group.current.items()}
            told_of = group.method.extra_tensors(whole).at_server
            _require_shapes(kept, {f"g/{name}": shape for name, shape in told_of.items()}, "kept at the server")

    def test_a_term_has_gradients_that_are_finite(self) -> None:
        """From the first step on, when B is 0; and gives back the layers that it was given."""
        group = self.group(steps=2)
        for client in RANKS:
            group.train(client)
            values = list(group.held[client].parameters())
            assert all(value.isfinite().all() for value in values)
            if (term := group.terms[client]) is not None:
                corrected = term.corrected(factors_of(group.held[client]))
                assert corrected is None or corrected.keys() == LAYERS.keys()

    def test_clients_that_are_put_into_other_groups_go_on(self) -> None:
        """Of clusters, whose largest rank is another."""
        group = self.group()
        group.round()
        group.method.regroup({"small": {"g": 1.0}, "large": {"g": 0.5, "new": 0.5}})
        assert not any(name.startswith("g/") for name in group.method.state_dict()), "the former group is no more"
        whole = group.current
        for name, clients in (("small", ["a", "c"]), ("large", ["b"])):
            current = truncated(whole, dict.fromkeys(LAYERS, max(RANKS[client] for client in clients)))
            group.current = current if group.method.SELECTS else whole
            for client in clients if group.method.SELECTS else ():
                group.deliver(client)
            updates = group.updates(clients)
            merge = group.method.aggregate(current, updates, Context(name, 2, group.weights(clients), 2))
            for path, factors in merge.adapters.items():
                assert factors.A.shape == current[path].A.shape and factors.A.isfinite().all()
            _require_shapes(group.method.extras_for(name, group.layers("c")), group.told("c").down, "delivered")

    def test_ranks_that_shrink_stay_ranks(self) -> None:
        """From 1 to what they were (``PRUNES``)."""
        group = self.group()
        update = group.updates(["b"])[0]
        before = {path: factors.rank for path, factors in group.current.items()}
        ranks = group.method.pruned(group.current, update.adapters)
        assert ranks.keys() == LAYERS.keys() and all(1 <= rank <= before[path] for path, rank in ranks.items())
        assert group.method.PRUNES or ranks == before


def _without(update: Update, path: str) -> Update:
    adapters = {name: factors for name, factors in update.adapters.items() if name != path}
    return replace(update, adapters=adapters)


def _worth(group: ToyGroup, merge: Merge) -> dict[str, Tensor]:
    """dW of each layer after a merge, its change of the base included."""
    worth = {}
    for path, factors in merge.adapters.items():
        changes = [each[path] for each in (group.base, merge.base) if path in each]
        worth[path] = group.worth(path, factors).double() + sum(delta(each).double() for each in changes)
    return worth


def _require_equal(first: ToyGroup, second: ToyGroup) -> None:
    """Adapters of the group and of all clients are the same bits."""
    for path in LAYERS:
        for group_pair in (
            (first.current, second.current),
            *((factors_of(first.held[c]), factors_of(second.held[c])) for c in first.held),
        ):
            values: Iterator[tuple[Tensor, Tensor]] = zip(group_pair[0][path], group_pair[1][path], strict=True)
            assert all(torch.equal(a, b) for a, b in values), f"{path} differs"


def _require_shapes(tensors: Mapping[str, Tensor], told: Shapes, what: str, *, all_of_them: bool = True) -> None:
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    wanted = {name: tuple(shape) for name, shape in told.items() if all_of_them or name in found}
    assert found == wanted, f"{what}: {found}, and extra_tensors tells {wanted}"
    assert all(value.dtype == torch.float32 for value in tensors.values()), f"{what}: not all are float32"
    assert not any(math.isnan(float(value.sum())) for value in tensors.values()), f"{what}: not a number"


def _require_kept(group: ToyGroup, client: str) -> None:
    """What a client keeps is what the method tells."""
    if (term := group.terms[client]) is not None:
        _require_shapes(term.state_dict(), group.told(client).at_client, "kept at a client", all_of_them=False)
