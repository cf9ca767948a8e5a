"""Predicted memory of clients without a backward against real ones of the same sizes."""

import json

import pytest
from support.rounds import run_round

from atlas_cli.config.schema.training import ZerothOrderConfig
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.planning.cuts.table import Setting, Shapes, cut_table
from atlas_cli.planning.memory_of_plan import build_task_of, client_memory, predict, served_client, shapes_of
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.wire.ledger import Ledger

ONE, PADDED = Shape(1, 32, False), Shape(4, 32, True)


def figures(plan, shape):
    """Predicted and measured memory of client a."""
    task = build_task_of(plan, "g", ["a", "b"])
    return client_memory(plan, plan.by_name["a"], task, shape), take_steps(plan, "a", shape, ["a", "b"])


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_of_a_client_with_a_head_of_its_own(make_config, task, checkpointing):
    """The model of its blocks, with norm, head and loss; more than a client needs that gets its gradient."""
    family = "gpt2" if task == "causal-lm" else "bert"
    own = {"learns": "auxiliary", "checkpointing": checkpointing}
    plan = make_plan(make_config(family, clients={"a": own}, task_groups={"g": {"task": task}}))
    predicted, measured = figures(plan, PADDED)
    for part in ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "cut_buffers"):
        assert getattr(predicted, part) == measured.parts[part], part
    assert predicted.saved_activations == pytest.approx(measured.parts["saved_activations"], rel=0.02)
    assert measured.peak <= predicted.peak <= 1.06 * measured.peak


@pytest.mark.slow
@pytest.mark.parametrize("shape", [ONE, PADDED])
@pytest.mark.parametrize("learns", ["frozen", "zeroth-order"])
def test_nothing_is_saved_for_a_backward(make_config, learns, shape):
    own = {"rank": 0} if learns == "frozen" else {}
    plan = make_plan(make_config(clients={"a": {"learns": learns, **own}}))
    predicted, measured = figures(plan, shape)
    for part in ("frozen_weights", "adapters", "gradients", "optimizer", "saved_activations", "cut_buffers"):
        assert getattr(predicted, part) == measured.parts[part], part
    assert predicted.saved_activations == 0
    assert measured.peak <= predicted.peak <= 1.06 * measured.peak
    assert measured.peak < 0.8 * figures(make_plan(make_config()), shape)[1].peak


@pytest.mark.slow
@pytest.mark.parametrize("learns", ["auxiliary", "frozen", "zeroth-order"])
def test_table_of_split_layers_is_of_such_a_client(make_config, learns):
    own = {"rank": 0} if learns == "frozen" else {"rank": 4}
    plan = make_plan(make_config(clients={"a": {"learns": learns, **own}}))
    setting = Setting(4, 32, 4, targets="auto", fused_gelu=plan.config.model.fused_gelu, learns=learns)
    row = cut_table(Shapes(plan.hf_config, setting), None, None, False)[plan.cut - 1]
    assert row.memory == figures(plan, PADDED)[0]
    if learns != "auxiliary":
        assert row.work.backward == (0 if learns == "frozen" else ZerothOrderConfig().probes * row.work.forward)
    assert (row.bytes.down > 0) == (learns == "zeroth-order")
    assert row.adapter_parameters == sum(rank * sum(plan.features[p]) for p, rank in plan.by_name["a"].ranks.items())


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["b", "ac", "abc"])
def test_server_holds_a_gradient_for_those_that_get_one(make_federation, frozen):
    """Of the batch that it needed most for, which is of c."""
    federation = make_federation(clients={name: {"learns": "frozen", "rank": 0} for name in frozen})
    set_up(federation)
    measured = MeasuredRound(federation, 1, "abc")
    run_round(federation, list("abc"), 1, Ledger(), lambda step, done: None)
    memory = json.loads(json.dumps(measured.record()))
    found = memory["server"]
    assert served_client(memory) == "c"
    known = shapes_of(memory), None, found["kept_tokens"], "c"
    said = predict(federation.plan, {"g": ["pos", "neg"]}, *known).record()["server"]
    for part in ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "cut_buffers"):
        assert said[part] == found[part], part
    assert said["saved_activations"] == pytest.approx(found["saved_activations"], rel=0.02)
