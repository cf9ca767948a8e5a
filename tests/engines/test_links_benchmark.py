"""``benchmarks/links.py``: calls over simulated links are those of the engine, and take the time of what is done."""

import torch
from links import Figures, Lane, SimulatedLinks, payload

from atlas_cli.engines.remote.arrays import pack
from atlas_cli.engines.remote.host import SentMessage
from atlas_cli.engines.remote.steps import remote_steps
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.attendance import Attendance
from atlas_cli.wire.ledger import Ledger


def test_a_lane_takes_one_thing_after_another():
    lane = Lane()
    assert [lane.take(0.0, 2.0), lane.take(1.0, 3.0), lane.take(9.0, 1.0)] == [2.0, 5.0, 10.0]
    assert lane.busy == 6.0


def test_what_is_hidden_is_a_share_of_what_could_be():
    assert [Figures(p, 10.0, 4.0).hidden for p in (10.0, 7.0, 4.0)] == [0.0, 0.5, 1.0]


def test_steps_over_a_link_are_counted_in_its_bytes(make_federation):
    federation, ledger, rate = make_federation("bert"), Ledger(), 1e6
    set_up(federation)
    attendance = Attendance(federation, list(federation.clients), 1)
    attendance.begin()
    calls = SimulatedLinks(federation, rate, 0.5)
    remote_steps(federation, calls, attendance, ledger, lambda *_: None)
    found, steps = calls.figures(), federation.config.training.local_steps
    # a client's steps wait for each other, up and down
    assert calls.clock > 2 * steps * 0.5 and found.least <= found.pipelined < found.in_turn
    held = sum(lane.busy for lane in (*calls.up, *calls.down)) * rate
    sent = sum(ledger.total(way, [client]) for client in federation.clients for way in ("up", "down"))
    assert 0 < held < sent and sent - held < 0.5 * sent  # which counts headers as well


def test_a_payload_is_that_of_its_arrays():
    packed = pack({"a": torch.zeros(3, 4), "b": torch.zeros(2, dtype=torch.int64)})
    assert payload((packed, 1, 2)) == payload(SentMessage(packed, None, False)) == 64
    assert payload(None) == 0
