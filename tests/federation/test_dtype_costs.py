"""What clients of a dtype of their own send and hold: the closed forms and predictions, to the byte."""

import pytest
import torch
from support.by_hand import batches_of
from support.rounds import run_round

from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.round_time import simulate
from atlas_cli.planning.cuts.choice import choose_split
from atlas_cli.planning.cuts.table import Setting
from atlas_cli.planning.memory_assumptions import notes_on
from atlas_cli.planning.memory_of_plan import Shape, predict
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations

BF16 = {"dtype": "bfloat16"}
ONE = {"clients": {"a": BF16}}
ALL = {"clients": dict.fromkeys("abc", BF16)}
CLASSES = {"g": ["neg", "pos"]}
HELD = ("frozen_weights", "adapters", "heads", "gradients", "optimizer", "saved_activations", "cut_buffers")


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_every_byte_is_the_closed_form(labels, make_federation):
    made = make_federation(**ONE, training={"labels": labels})
    ledger = Ledger()
    run_round(made, list("abc"), 1, ledger, lambda *_: None)
    assert ledger.mismatches() == []
    for name, element in (("a", 2), ("b", 4)):
        shapes = [batch.input_ids.shape for batch in batches_of(made, name)]
        numbers = sum(b * t * 32 for b, t in shapes)
        sent = {kind: e.payload_bytes for (c, kind, _), e in ledger.entries.items() if c == name}
        classes = labels == "server"
        assert sent["activations"] == sum(
            Activations.closed_form(b, t, 32 * element, 8 * b * classes) for b, t in shapes
        )
        assert sent["gradients"] == element * numbers
        if labels == "client":  # the server half's output keeps the server's dtype
            assert (sent["features"], sent["feature-gradients"]) == (4 * numbers, 4 * numbers + 8 * len(shapes))


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_a_round_is_predicted_to_the_byte_and_a_set_up_is_halved(labels, make_config, make_federation, train_quietly):
    one_shape = {"rounds": 2, "local_steps": 1, "batch_size": 3, "max_length": 3, "labels": labels}
    config = make_config(**ONE, training=one_shape)
    made = make_federation(**ONE, training=one_shape)
    records = train_quietly(made).clients
    said = predict(make_plan(config), CLASSES).rounds
    for line in (line for line in records if line["round"] == 2):
        assert (line["bytes_up"], line["bytes_down"]) == (said[line["client"]].up, said[line["client"]].down)
    weights = {c: e.payload_bytes for (c, kind, _), e in set_up(made).entries.items() if kind == "base-weights"}
    assert 2 * weights["a"] == weights["b"] == weights["c"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "padded"),
    [
        ({"family": "gpt2"}, True),
        ({"family": "bert", "training": {"labels": "client"}}, False),
        ({"family": "gpt2"}, False),
        ({"family": "llama", "checkpoint": True}, True),
        ({"family": "bert", "training": {"labels": "client"}}, True),
        ({"family": "distilbert", "training": {"labels": "client"}}, True),
        ({"family": "gpt2", "training": {"labels": "client"}, "lm": True}, True),
        ({"family": "llama", "training": {"labels": "client"}, "lm": True}, False),
        ({"family": "bert", "mode": "federated"}, True),
    ],
    ids=str,
)
def test_what_a_client_holds_is_predicted(changes, padded, lines, make_config):
    changes = dict(changes)
    groups = {"task_groups": lines} if changes.pop("lm", False) else {}
    checkpointing = {"checkpointing": changes.pop("checkpoint", False)}
    plan = make_plan(make_config(**changes, **groups, clients={"a": {**BF16, **checkpointing}}))
    shape = Shape(4, 16, padded)
    prediction = predict(plan, CLASSES, dict.fromkeys("abc", shape))
    for name in "ab":
        found, said = take_steps(plan, name, shape, CLASSES["g"]).parts, prediction.clients[name]
        assert {part: found[part] for part in HELD} == {part: getattr(said, part) for part in HELD}
    ours, theirs = prediction.clients["a"], prediction.clients["b"]
    assert prediction.by_name["a"].alike == "a" != prediction.by_name["b"].alike
    assert ours.frozen_weights < 0.6 * theirs.frozen_weights and ours.peak < theirs.peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clients", "family", "padded"),
    [(ALL, "gpt2", True), (ALL, "bert", False), (ONE, "gpt2", False), (ONE, "bert", True)],
    ids=["all", "all, not padded", "one, not padded", "one"],
)
def test_what_the_server_holds_is_predicted(clients, family, padded, make_federation):
    made = make_federation(family, **clients)
    shape = Shape(4, 16, padded)
    made.server.begin_round(dict.fromkeys("abc", "g"), 1)
    usage = made.server.measure()
    ids, mask = torch.full((4, 16), 7), torch.ones(4, 16, dtype=torch.int64)
    mask[0, -1] = 0 if padded else 1
    for client in made.clients.values():
        up = client.forward({"input_ids": ids, "attention_mask": mask}, 1, 0, torch.zeros(4, dtype=torch.int64))
        reply, _ = made.server.answer(up)
        assert reply.gradients.dtype == up.activations.dtype == client.base.dtype
        client.apply_gradients(reply.gradients)
    said = predict(made.plan, CLASSES, dict.fromkeys([*"abc", "server"], shape)).server
    for part in ("frozen_weights", "saved_activations", "cut_buffers"):
        assert getattr(usage, part) == getattr(said, part), part
    assert said.cut_buffers == 2 * 4 * 16 * 32 * (2 if clients is ALL else 4)


@pytest.mark.slow
def test_the_clock_counts_the_bytes_that_are_sent(make_federation):
    device = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s", "latency": "10 ms"}
    devices = {"devices": {"slow": device}, "clients": {name: {"device": "slow"} for name in "abc"}}
    times = []
    for dtype in ("float32", "bfloat16"):
        devices["clients"]["a"]["dtype"] = dtype
        made, ledger = make_federation(**devices), Ledger()
        trained = run_round(made, list("abc"), 1, ledger, lambda *_: None)
        times.append((simulate(made, trained, ledger).clients, ledger))
    (wide, sent), (narrow, fewer) = times
    assert narrow["b"].upload == wide["b"].upload and narrow["a"].compute == wide["a"].compute
    saved = sent.total("up", ["a"]) - fewer.total("up", ["a"])
    elements = sum(b.input_ids.numel() * 32 for b in batches_of(made, "a"))
    assert saved == pytest.approx(2 * elements, abs=64)
    assert wide["a"].upload - narrow["a"].upload == pytest.approx(8 * saved / 1e6)


@pytest.mark.slow
def test_a_narrower_client_is_cut_deeper(make_config):
    rows = choose_split(make_config().model.name, Setting(4, 32, 4)).rows
    devices = {"devices": {"phone": {"memory": f"{rows[1].memory.peak - 1} B"}}}
    cuts = {}
    for dtype in ("float32", "bfloat16"):
        own = {"device": "phone", "split_layer": "auto", "dtype": dtype}
        cuts[dtype] = make_plan(make_config(clients={"a": own}, **devices)).clients[0].cut
    assert cuts["float32"] == 1 < cuts["bfloat16"]


def test_the_report_says_whose_dtype_differs(make_config):
    note = "frozen weights and activations in bfloat16 (model.dtype: float32): a"
    assert note in notes_on(make_plan(make_config(**ONE)))
    assert f"{note} and 2 more" in notes_on(make_plan(make_config(**ALL)))
    assert not any("frozen weights" in said for said in notes_on(make_plan(make_config(model=BF16))))
