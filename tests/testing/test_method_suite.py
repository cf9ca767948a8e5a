"""Every method keeps the contract, and the suite that says so finds methods that break it."""

import itertools

import pytest
import torch

from atlas_cli import discovery
from atlas_cli.aggregation.contract import ClientTerm, ExtraTensors, Factors, Merge, resized
from atlas_cli.aggregation.methods import scaffold, zero_pad
from atlas_cli.errors import ConfigError, PluginError
from atlas_cli.planning.method import load_method
from atlas_cli.testing.methods import Conformance, conformance

PROMISES = [name for name in vars(Conformance) if name.startswith("test_")]
OPTIONS = {
    "hetlora": [{}, {"prune": 0.5, "penalty": 0.1}],
    "trimmed-mean": [{}, {"trim": 0.34}],
    "ravan": [{"heads": 2, "size": 3, "select": select} for select in ("random", "weight")],  # that fit its layers
}


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", discovery.names("aggregation.methods"))
def test_every_method_keeps_its_promises(name, promise):
    for options in OPTIONS.get(name, [{}]):
        getattr(conformance(load_method(name), **options)(), promise)()


def merging(change):
    """A merge whose result, by path, is changed; ``change`` is given updates and context, too."""

    def aggregate(self, current, updates, context):
        merged = zero_pad.Method.aggregate(self, current, updates, context).adapters
        return Merge({path: change(path, f, updates, current) for path, f in merged.items()})

    return {"aggregate": aggregate}


class Zero(ClientTerm):
    """Divides by the norm of B, which is 0 at the start."""

    def penalty(self, adapters):
        return sum(f.B.square().sum().sqrt() for f in adapters.values())


class Forgetful(scaffold._Control):
    """Remembers beside its state."""

    def corrected(self, gradients):
        self._seen = getattr(self, "_seen", 0) + 1
        return {path: Factors(f.A * self._seen, f.B) for path, f in gradients.items()}


def written(path, f, updates, current):
    current[path].B.add_(1)
    return f


def last_alone(path, f, updates, current):
    last = [u.adapters[path] for u in updates if path in u.adapters]
    return Factors(resized(last[-1].A, f.A.shape), resized(last[-1].B, f.B.shape)) if last else f


def by_weight(path, f, updates, current):
    return Factors(f.A, f.B * sum(u.weight for u in updates) / 6)


COUNT = itertools.count()
SABOTAGE = {
    "test_it_says_what_the_contract_asks": (zero_pad, {"agregate": lambda self: None}),
    "test_a_merge_keeps_shapes_and_layers": (zero_pad, merging(lambda path, f, *_: Factors(f.A, f.B.double()))),
    "test_what_it_is_given_stays": (zero_pad, merging(written)),
    "test_a_merge_depends_on_nothing_else": (zero_pad, merging(lambda p, f, *_: Factors(f.A, f.B + next(COUNT)))),
    "test_the_order_of_clients_does_not_matter": (zero_pad, merging(last_alone)),
    "test_weights_count_by_their_ratio": (zero_pad, merging(by_weight)),
    "test_clients_that_train_the_same_get_it": (zero_pad, merging(lambda p, f, *_: Factors(f.A, 0.9 * f.B))),
    "test_a_delivery_has_the_receivers_ranks": (zero_pad, {"deliver": lambda self, merged, held, ranks: dict(merged)}),
    "test_nothing_trained_is_nothing_merged": (zero_pad, merging(lambda p, f, *_: Factors(f.A, f.B + 1e-9))),
    "test_heads_that_are_alike_stay": (zero_pad, {"merge_values": lambda self, values, shares: sum(values)}),
    "test_its_state_is_all_that_it_remembers": (scaffold, {"client_term": lambda self: Forgetful()}),
    "test_tensors_besides_adapters_are_those_it_tells": (
        scaffold,
        {"extra_tensors": lambda self, layers: ExtraTensors(down=scaffold.Method().extra_tensors(layers).down)},
    ),
    "test_a_term_has_gradients_that_are_finite": (zero_pad, {"client_term": lambda self: Zero()}),
    "test_clients_that_are_put_into_other_groups_go_on": (scaffold, {"regroup": lambda self, shares: None}),
    "test_ranks_that_shrink_stay_ranks": (zero_pad, {"pruned": lambda self, sent, trained: dict.fromkeys(trained, 0)}),
}


@pytest.mark.parametrize("promise", SABOTAGE)
def test_a_broken_promise_is_found(promise):
    module, names = SABOTAGE[promise]
    broken = type("Method", (module.Method,), names)
    with pytest.raises((AssertionError, ConfigError, PluginError)):
        getattr(conformance(broken)(), promise)()


def test_each_promise_has_a_method_that_breaks_it():
    assert set(SABOTAGE) == set(PROMISES)


def test_a_term_with_a_misspelt_hook_is_refused_when_its_file_is_loaded():
    with pytest.raises(ConfigError, match=r"Term\.penalti is nothing that ClientTerm has; did you mean penalty\?"):
        type("Term", (ClientTerm,), {"penalti": lambda self, adapters: torch.zeros(())})
