"""A method that does not keep its contract ends the run with its file and hook, whatever it would have led to later."""

import re

import pytest
import torch
from support.elsewhere import run

from atlas_cli.aggregation.methods import scaffold
from atlas_cli.errors import NonFiniteError, PluginError, TooFewClientsError
from atlas_cli.experiment.run_state import RunState
from atlas_cli.plugin_errors import described

METHOD, TERM = scaffold.Method, scaffold._Control
sends, merges, begins = TERM.end_round, METHOD.aggregate, TERM.begin_round


def remembers(self, current, updates, context):
    self.state[context.group] = {"undeclared": torch.ones(2)}
    return merges(self, current, updates, context)


def writes(self, adapters):
    begins(self, adapters)
    next(iter(adapters.values())).A.add_(1)


def not_finite(self, adapters):
    return {name: value * float("nan") for name, value in sends(self, adapters).items()}


BROKEN = {
    "extras_for": (METHOD, lambda self, group, layers: {}, {}, r"Method\.extras_for lacks "),
    "deliver": (METHOD, lambda self, merged, held, ranks: {}, {}, r"Method\.deliver lacks .*, in round 0, client a$"),
    "aggregate": (METHOD, remembers, {}, r"Method\.state\['g'\] has undeclared .*, in round 1, task group g$"),
    "merge_values": (
        METHOD,
        lambda self, values, shares: values[0].sum(),
        {"training": {"labels": "client"}},
        r"Method\.merge_values gives .*, in round 1, task group g$",
    ),
    "begin_round": (TERM, writes, {}, r"_Control\.begin_round writes to the adapter .*, in round 1, client a$"),
    "corrected": (TERM, lambda self, gradients: {}, {}, r"_Control\.corrected .* lacks .*, in round 1, client"),
    "penalty": (TERM, lambda self, adapters: 1.0, {}, r"_Control\.penalty gives a float, .*, in round 1, client"),
    "end_round": (TERM, lambda self, adapters: {}, {}, r"_Control\.end_round lacks .*, in round 1, client a$"),
    "state_dict": (
        TERM,
        lambda self: {},
        {},
        r"_Control\.state_dict: mean/.* of state is not .*, client a$",
    ),
}


@pytest.mark.parametrize("hook", BROKEN)
def test_a_hook_that_breaks_the_contract_is_named(hook, make_federation, monkeypatch):
    owner, broken, changes, says = BROKEN[hook]
    monkeypatch.setattr(owner, hook, broken)
    with pytest.raises(PluginError) as caught:
        run(make_federation(aggregation={"method": "scaffold"}, **changes))
    said = described(caught.value)
    assert re.match(rf"atlas_cli/aggregation/methods/scaffold\.py: {says}", said), said


def test_a_state_that_a_checkpoint_would_lose_is_named(make_federation, monkeypatch):
    federation = make_federation(aggregation={"method": "scaffold"})
    run(federation)
    monkeypatch.setattr(METHOD, "load_state_dict", lambda self, state: None)
    with pytest.raises(PluginError, match=r"scaffold\.py: Method\.load_state_dict: g/.* is not what it was"):
        RunState(federation).capture()


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["stop", "drop-client"])
def test_extras_that_are_not_finite_are_their_methods(rule, make_federation, monkeypatch):
    monkeypatch.setattr(TERM, "end_round", not_finite)
    federation = make_federation(aggregation={"method": "scaffold"}, training={"on_nonfinite": rule})
    says = r"_Control\.end_round gives .* for client a that is not finite"
    with pytest.raises(NonFiniteError if rule == "stop" else TooFewClientsError, match=says):
        run(federation)
