"""What codecs keep of texts, in the memory of both ends, predicted and measured."""

from support.rounds import run_round

from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.planning.memory_assumptions import read_texts
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.wire.ledger import Ledger

WIRE = {"activations": {"codec": "delta"}, "gradients": {"codec": "int4", "feedback": True}}


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
