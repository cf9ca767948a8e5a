"""Predicted memory of clients with codecs against real ones of the same sizes."""

import pytest
import torch
from support.rounds import run_round
from support.slow import slow

from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.planning.memory.encoding import coding_bytes
from atlas_cli.planning.memory_of_plan import build_task_of, client_memory, predict, served_client, shapes_of
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.step_codecs import StepCodecs

PADDED = Shape(4, 32, True)
HUNGRY = {"codec": "vector-quantised", "options": {"levels": 128, "pieces": 32}}
KEEPING = {"codec": "delta", "options": {"codec": "nf4", "first": "int8"}}


def of_a(plan):
    """Predicted and measured memory of client a, whose texts are those of one batch."""
    task, texts = build_task_of(plan, "g", ["a", "b"]), 4 * 32 - 1
    kept = texts if plan.codecs(plan.by_name["a"]).numbered else 0
    return client_memory(plan, plan.by_name["a"], task, PADDED, texts=kept), take_steps(plan, "a", PADDED, ["a", "b"])


@pytest.mark.parametrize(
    ("codec", "learns", "labels"),
    [
        (HUNGRY, "backprop", "server"),
        (KEEPING, "backprop", "client"),
        ({"codec": "int4"}, "frozen", "server"),
        *slow(
            ({"codec": "top-k"}, "frozen", "server"),
            (HUNGRY, "zeroth-order", "server"),
            (HUNGRY, "auxiliary", "server"),
            (KEEPING, "backprop", "server"),
            ({"codec": "low-rank"}, "backprop", "client"),
        ),
    ],
)
def test_a_client_needs_what_is_alive_while_codecs_work(make_config, codec, learns, labels):
    """Whatever is most: its backward, or its codecs; on clients without a backward it is the latter."""
    own = {"learns": learns, **({"rank": 0} if learns == "frozen" else {})}
    shared = {"clients": {"a": own}, "training": {"labels": labels}}
    plan = make_plan(make_config(**shared, wire={"activations": codec, "gradients": codec}))
    predicted, measured = of_a(plan)
    assert measured.peak <= predicted.peak <= 1.1 * measured.peak
    if codec is HUNGRY or learns == "frozen":
        assert predicted.peak > of_a(make_plan(make_config(**shared)))[1].peak


def test_of_a_message_that_is_too_large_to_try_it_is_so_much_more():
    wire = WireConfig(activations=CodecConfig(codec="int8"))
    codecs = StepCodecs.of(wire, 8192, torch.float32, torch.float32, 0, ["activations"])
    assert coding_bytes(codecs, 64, 256) == 64 * coding_bytes(codecs, 1, 256)
    assert coding_bytes(StepCodecs.none(8, torch.float32, torch.float32), 64, 256) == 0


@pytest.mark.parametrize("mode", ["split-federated", *slow("federated")])
def test_copies_of_adapters_and_heads_are_measured_and_predicted(make_federation, train_quietly, mode):
    """What was delivered, and what uploads lost, of those with codecs alone."""
    both = {"adapters": {"codec": "int4", "feedback": True}, "deliveries": {"codec": "int8"}}
    own = {"a": {"wire": both}, "b": {"wire": {"deliveries": {"codec": "int8"}}}}
    federation = make_federation(
        mode=mode, clients=own, aggregation={"method": "zero-pad"}, training={"rounds": 1, "labels": "client"}
    )
    recorder = train_quietly(federation)
    memory = recorder.measured.record()["clients"]
    held = {name: sum(t.nbytes for t in m.exchanged().values()) for name, m in federation.aggregator.members.items()}
    assert {name: each.get("kept_adapters") for name, each in memory.items()} == {
        "a": 2 * held["a"],
        "b": held["b"],
        "c": None,
    }
    plan, task, shapes = federation.plan, federation.data["g"].task, shapes_of(recorder.measured.record())
    for name, each in memory.items():
        assert client_memory(plan, plan.by_name[name], task, shapes[name]).cut_buffers == each["cut_buffers"]


@pytest.mark.parametrize(
    ("method", "parts"),
    [("fedsa", ["lora_A", "head"]), *slow(("ffa", ["lora_B", "head"]), ("rolora", ["lora_A", "lora_B", "head"]))],
)
def test_the_server_keeps_of_every_client_what_is_delivered_as_a_change(make_federation, method, parts):
    """Of those that are idle and put away, too; nothing for uploads alone, whatever they lose."""
    federation = make_federation(
        aggregation={"method": method},
        wire={"deliveries": {"codec": "int8"}},
        clients={"b": {"wire": {"deliveries": {"codec": "none"}, "adapters": {"codec": "int4"}}}},
        training={"labels": "client"},
        engine={"offload": "1 KiB"},
    )
    set_up(federation)
    with federation.at_hand(["a"]):
        measured = MeasuredRound(federation, 1, ["a"])
        run_round(federation, ["a"], 1, Ledger(), lambda *_: None)
        record = measured.record()
    with federation.at_hand("ac"):
        held = [each for client in "ac" for each in federation.aggregator.members[client].exchanged().items()]
        copies = sum(tensor.nbytes for name, tensor in held if any(part in name for part in parts))
    federation.close()
    said = predict(federation.plan, {"g": ["neg", "pos"]}, shapes_of(record), served=served_client(record))
    for server in (record["server"], said.record()["server"]):
        assert server["kept_adapters"] == copies
    assert record["server"]["cut_buffers"] == said.server.cut_buffers
