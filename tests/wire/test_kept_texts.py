"""What codecs keep of texts, in the memory of both ends, predicted and measured."""

from types import SimpleNamespace

import pytest
from support.rounds import run_round

from atlas_cli.engines.remote.process_memory import ProcessMemory
from atlas_cli.engines.remote.ray_engine import RayEngine
from atlas_cli.errors import TooFewClientsError
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.planning.cuts.table import Setting, Shapes
from atlas_cli.planning.memory_assumptions import read_texts
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

WIRE = {"activations": {"codec": "delta"}, "gradients": {"codec": "int4", "feedback": True}}


@pytest.mark.slow
def test_what_is_predicted_of_all_texts_is_what_both_ends_hold_after_an_epoch(make_federation):
    """The client what it sent; the server what it received, and what its gradients lost."""
    federation = make_federation(
        wire=WIRE,
        training={"local_steps": 12},
        clients={"b": {"task_group": "g", "wire": {"activations": {"codec": "none"}}}},
    )
    names = list(federation.clients)
    set_up(federation)
    measured = MeasuredRound(federation, 1, names)
    run_round(federation, names, 1, Ledger(), lambda *_: None)
    found = measured.record()
    texts, notes = read_texts(federation.plan)
    said = predict(federation.plan, {"g": ["pos", "neg"]}, texts=texts).record()
    tokens = {name: sum(len(each["input_ids"]) for each in federation.train_features(name)) for name in names}
    assert texts == tokens == {name: found["clients"][name]["text_tokens"] for name in names}
    a_token = 4 * federation.base.hidden_size
    at_client = {name: a_token * tokens[name] * (name != "b") for name in names}
    at_server = sum(a_token * tokens[name] * (1 + (name != "b")) for name in names)
    for record in (found, said):
        assert {name: parts["kept_texts"] for name, parts in record["clients"].items()} == at_client
        assert record["server"]["kept_texts"] == at_server < record["server"]["cut_buffers"]
    assert "after an epoch" in notes[0]


@pytest.mark.slow
def test_what_does_not_fit_in_memory_is_on_disk_and_a_run_is_the_same(make_federation, train_quietly, tmp_path):
    """With idle clients put away, too, and one whose round is given back; nothing is left of what was replaced."""
    changes = {"wire": WIRE, "faults": {"crash_at": {"b": {"round": 2, "step": 1}}}, "output": {"dir": str(tmp_path)}}
    plain = make_federation(**changes)
    small = make_federation(**changes, engine={"kept_texts": "1 KiB", "offload": "1 KiB"})
    lines = [[line["train_loss"] for line in train_quietly(each).metrics] for each in (plain, small)]
    assert lines[0] == lines[1] and small.kept_texts.peak_disk_bytes > 10_000
    assert small.kept_texts.memory_bytes == small.kept_texts.disk_bytes == 0  # all clients are away, with theirs
    small.close()
    assert not list(tmp_path.iterdir())


def test_a_dropped_client_leaves_nothing_of_its_texts(make_federation, train_quietly):
    """At either end; it is back where the round began."""
    made = make_federation(wire=WIRE, screen={"max_norm_ratio": 1.0}, training={"rounds": 1})
    dropped = train_quietly(made).metrics[-1]["dropped"]
    assert dropped and dropped.keys() < set("abc")
    for client, party in made.clients.items():
        assert (party.wire.memory.tokens == 0) == (client in dropped)


@pytest.mark.slow
def test_a_cut_is_chosen_with_what_codecs_keep_of_texts(make_config):
    """``split_layer: auto``: the deepest whose memory, of all the client's texts, is the device's or less."""

    def plan(layer, memory, of_server=10**9):
        config = make_config(
            wire=WIRE,
            devices={"own": {"memory": f"{memory} B"}, "big": {"memory": f"{of_server} B", "compute": "1 TFLOP/s"}},
            clients={"a": {"split_layer": layer, "device": "own"}},
            server={"device": "big"},
        )
        return make_plan(config)

    found = plan(3, 10**9)
    said = predict(found, {"g": ["pos", "neg"]}, texts=read_texts(found)[0])
    peak = said.clients["a"].peak
    assert [plan("auto", memory).by_name["a"].cut for memory in (peak, peak - 1)] == [3, 2]
    # the server keeps those of all clients
    without = Shapes(found.hf_config, Setting(batch=4, tokens=32)).server(4).peak
    least = without + said.kept_texts
    assert plan("auto", 10**9, least).by_name["a"].cut == 3
    with pytest.raises(TooFewClientsError, match="fits server big: it needs"):
        plan("auto", 10**9, least - 1)


@pytest.mark.slow
def test_a_process_of_a_cluster_reserves_what_its_clients_keep(make_federation):
    """The fewer processes serve a round, the more clients' texts are in one; beyond ``engine.kept_texts`` on disk."""
    own = {"c": {"task_group": "g", "wire": {"activations": {"codec": "none"}}}}
    plain, kept = (make_federation(wire=wire, clients=own, engine={"fuse": "off"}) for wire in ({}, WIRE))
    tokens = {name: sum(len(each["input_ids"]) for each in kept.train_features(name)) for name in "ab"}
    sizes = sorted((4 * kept.base.hidden_size * count for count in tokens.values()), reverse=True)
    memory = ProcessMemory.of(kept)
    without = memory.steps  # in which codecs work, too
    assert without >= ProcessMemory.of(plain).reserved(1)
    assert [memory.reserved(count) - without for count in (1, 2, 3)] == [sum(sizes), sum(sizes), sizes[0]]
    limited = ProcessMemory.of(make_federation(wire=WIRE, clients=own, engine={"kept_texts": "1 KiB"}))
    assert limited.reserved(1) - without == 1024 < sizes[0]
    node = {"CPU": 9.0, "GPU": 0.0, "memory": 2.0 * memory.reserved(3)}  # for two that serve two clients not quite
    ray = SimpleNamespace(put=lambda value: value, nodes=lambda: [{"Alive": True, "Resources": node}])
    engine = RayEngine(kept, ray, print)
    assert (engine._wanted, engine._needed["memory"]) == (1, memory.reserved(1))
    node["memory"] = 2.0 * memory.reserved(2)
    engine = RayEngine(kept, ray, print)
    assert (engine._wanted, engine._needed["memory"]) == (2, memory.reserved(2))
