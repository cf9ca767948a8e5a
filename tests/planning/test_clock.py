"""The virtual clock against timelines worked out by hand."""

import math
import random

import pytest

from atlas_cli.planning.devices.clock import ClientWork, LocalStep, round_time, time_so_far
from atlas_cli.planning.devices.devices import Device

# figures that make seconds of round numbers: 1 FLOP/s, 1 byte/s
FAST = Device("fast", compute=1.0, uplink=8.0, downlink=8.0, watts=2.0)
SLOW = Device("slow", compute=0.1, uplink=8.0, downlink=8.0, watts=2.0)
SERVER = Device("server", compute=1.0)


def work(name, device=FAST, group="g", *, flops=2.0, server=3.0, up=4.0, down=5.0, steps=1, messages=1, **more):
    step = LocalStep(flops / 2, flops / 2, server, up, down, messages, messages)
    return ClientWork(name, group, device, [step] * steps, **more)


def test_one_client_one_step():
    # forward 1, upload 4, server 3, download 5, backward 1
    time = round_time([work("a")], SERVER)
    a = time.clients["a"]
    assert (a.compute, a.upload, a.server, a.download, a.wait) == (2, 4, 3, 5, 0)
    assert time.seconds == a.finished == 14
    assert a.joules == 2.0 * (2 + 4 + 5)


def test_steps_and_adapters_add_up():
    time = round_time([work("a", steps=3, adapter_bytes_up=6, adapter_bytes_down=7)], SERVER)
    a = time.clients["a"]
    assert (a.compute, a.upload, a.server, a.download) == (6, 12 + 6, 9, 15 + 7)
    assert time.seconds == 3 * 14 + 6 + 7
    assert a.finished == 3 * 14 + 6


def test_adapters_are_encoded_before_they_go_up_and_decoded_after_they_came_down():
    ends = {"adapter_bytes_up": 6, "adapter_bytes_down": 7, "encode_flops": 0.4, "decode_flops": 0.2}
    pair = [work("f", adapter_bytes_up=6, adapter_bytes_down=7), work("s", SLOW, slowdown=2.0, **ends)]
    time = round_time(pair, SERVER, "per-client")
    s, alone = time.clients["s"], 2 * (10 + 4 + 5 + 10) + 3  # of one step, the server's time as it is
    assert s.finished == pytest.approx(alone + 2 * (4 + 6))
    assert time.seconds == pytest.approx(s.finished + 2 * (7 + 2))
    assert s.compute == pytest.approx(2 * (10 + 10 + 4 + 2)) and s.wait == pytest.approx(0)
    assert s.joules == 2.0 * (s.compute + s.upload + s.download)
    assert time.clients["f"].wait == pytest.approx(time.seconds - 14 - 6 - 7)
    assert pair[1].own_seconds(SERVER, 0.0) == pytest.approx(time.seconds - 3)


def test_latency_is_paid_for_every_message():
    far = Device("far", compute=1.0, uplink=8.0, downlink=8.0, latency=0.5)
    near = round_time([work("a", steps=2)], SERVER).seconds
    assert round_time([work("a", far, steps=2)], SERVER).seconds == near + 2 * 2 * 0.5
    u_shaped = work("a", far, steps=2, messages=2)
    assert round_time([u_shaped], SERVER).seconds == near + 2 * 4 * 0.5


def test_the_parallel_server_serves_two_at_once_and_the_sequential_one_after_the_other():
    pair = [work("a"), work("b")]
    assert round_time(pair, SERVER, "pooled").seconds == 14
    time = round_time(pair, SERVER, "sequential")
    assert time.seconds == 14 + 3
    # a is done at 14 and waits for b; b waits for the server
    assert (time.clients["a"].wait, time.clients["a"].finished) == (3, 14)
    assert (time.clients["b"].wait, time.clients["b"].finished) == (3, 17)


def test_the_sequential_server_keeps_to_the_order_of_the_clients():
    slow_first = round_time([work("s", SLOW), work("f")], SERVER, "sequential")
    # s arrives at 10 + 4, is served until 17; f, there at 5, has its turn after that
    assert slow_first.clients["f"].finished == 17 + 3 + 5 + 1
    fast_first = round_time([work("f"), work("s", SLOW)], SERVER, "sequential")
    assert fast_first.clients["f"].finished == 14
    assert fast_first.seconds == 10 + 4 + 3 + 5 + 10


def test_pooled_steps_wait_for_the_whole_group_and_per_client_ones_do_not():
    pair = [work("f", steps=2), work("s", SLOW, steps=2)]
    per_client = round_time(pair, SERVER, "per-client")
    assert per_client.clients["f"].finished == 28
    pooled = round_time(pair, SERVER, "pooled")
    # step 1 of s is served at 17: then only step 2 of f, there since 19 or so, may begin
    assert pooled.clients["f"].finished == max(17, 14 + 1 + 4) + 3 + 5 + 1
    slower = [work("f", steps=2), work("s", Device("z", compute=0.01, uplink=8.0, downlink=8.0), steps=2)]
    assert round_time(slower, SERVER, "pooled").clients["f"].finished == (100 + 4 + 3) + 3 + 5 + 1
    # another group's clients are not waited for
    apart = [work("f", steps=2), work("s", SLOW, "h", steps=2)]
    assert round_time(apart, SERVER, "pooled").clients["f"].finished == 28


def test_each_step_waits_for_the_longest_of_its_own_batches():
    """Two clients that do the same in all, one its long batch first and the other last: no step is a mean step."""
    long, short = LocalStep(50.0, 50.0, 3.0, 4.0, 5.0), LocalStep(1.0, 1.0, 3.0, 4.0, 5.0)
    pair = [ClientWork("a", "g", FAST, [long, short, short]), ClientWork("b", "g", FAST, [short, short, long])]
    assert round_time(pair, SERVER, "per-client").seconds == 112 + 14 + 14
    time = round_time(pair, SERVER, "pooled")
    # b, back at 14, has its second batch served from 57 on, when a's first one is, and is back at 66
    assert time.seconds == time.clients["b"].finished == 66 + 112
    assert time.clients["a"].finished == 140 and time.clients["a"].compute == time.clients["b"].compute == 104


def test_the_straggler_shows():
    time = round_time([work("a"), work("b"), work("s", SLOW)], SERVER)
    assert time.seconds == time.clients["s"].finished == 32
    assert [time.clients[c].wait for c in "abs"] == [18, 18, 0]
    assert time.clients["a"].finished == 14


def test_a_group_is_merged_when_its_last_client_has_sent():
    works = [
        work("a", adapter_bytes_up=1, adapter_bytes_down=1),
        work("s", SLOW, adapter_bytes_up=1, adapter_bytes_down=1),
        work("b", group="h", adapter_bytes_up=1, adapter_bytes_down=2),
    ]
    assert round_time(works, SERVER).seconds == 32 + 1 + 1
    assert round_time([works[0], works[2]], SERVER).seconds == 14 + 1 + 2
    alone = round_time(works, SERVER, merge=False)
    assert alone.clients["s"].wait == pytest.approx(0)


def test_joules_need_watts_of_all():
    unknown = Device("u", compute=1.0, uplink=8.0, downlink=8.0)
    time = round_time([work("a"), work("b", unknown)], SERVER)
    assert time.clients["a"].joules == 22 and time.clients["b"].joules is None and time.joules is None
    assert round_time([work("a"), work("b")], SERVER).joules == 44


@pytest.mark.parametrize("update", ["pooled", "per-client", "sequential"])
def test_properties_on_random_rounds(update):
    draw = random.Random(0)

    def device(name, factor=1.0):
        return Device(name, None, factor * draw.uniform(1, 9), draw.uniform(1, 9), draw.uniform(1, 9), 0.1, 1.0)

    for _ in range(60):
        works = [
            work(
                str(i),
                device(str(i)),
                draw.choice("gh"),
                flops=draw.uniform(0.1, 9),
                server=draw.uniform(0.1, 9),
                steps=draw.randint(1, 4),
                adapter_bytes_up=draw.choice([0, 3]),
                adapter_bytes_down=draw.choice([0, 3]),
            )
            for i in range(draw.randint(1, 5))
        ]
        time = round_time(works, SERVER, update)
        for w in works:
            c = time.clients[w.name]
            parts = c.compute + c.upload + c.server + c.download + c.wait
            assert math.isclose(parts, time.seconds) and c.finished <= time.seconds + 1e-9
        assert time == round_time(works, SERVER, update)
        # more servers, or less to wait for, never make it longer
        parallel = round_time(works, SERVER, "per-client").seconds
        assert parallel <= time.seconds + 1e-9
        assert round_time(works, Device("server", compute=2.0), update).seconds <= time.seconds + 1e-9


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ValueError, match="device bare has no compute"):
        round_time([work("a", Device("bare"))], SERVER)
    with pytest.raises(ValueError, match="device server has no compute"):
        round_time([work("a")], Device("server"))
    with pytest.raises(ValueError, match="name of its own"):
        round_time([work("a"), work("a")], SERVER)
    with pytest.raises(ValueError, match="needs clients"):
        round_time([], SERVER)


def test_a_slow_client_computes_and_transfers_longer_and_is_served_as_fast():
    plain, slow = (round_time([work("a", adapter_bytes_up=6, slowdown=f)], SERVER).clients["a"] for f in (1, 3))
    assert (slow.compute, slow.upload, slow.download) == (3 * plain.compute, 3 * plain.upload, 3 * plain.download)
    assert slow.server == plain.server == 3 and slow.joules == 3 * plain.joules


def test_nobody_waits_at_the_merge_for_a_client_that_was_dropped():
    slow = work("s", SLOW, steps=2, dropped=True)
    time = round_time([work("a", steps=2), slow], SERVER, "per-client")
    assert time.seconds == 28 < time.clients["s"].finished


def test_the_steps_that_a_dropped_client_did_were_waited_for_but_not_the_one_that_came_too_late():
    slow = {"flops": 40.0, "steps": 1, "dropped": True}  # forward 20, upload 4, server 3
    in_time, late = (
        round_time([work("a", steps=2), work("s", **slow, late=too_late)], SERVER) for too_late in (False, True)
    )
    assert in_time.seconds == 27 + 3 + 5 + 1  # the second step of a is served once the first of s is
    assert late.seconds == 28


def test_the_deadline_is_how_long_the_server_waits():
    time = round_time([work("a"), work("s", SLOW, dropped=True, late=True)], SERVER, waited=40.0)
    assert time.seconds == 40 and time.clients["a"].wait == 40 - 14
    only = round_time([work("s", SLOW, dropped=True, late=True)], SERVER, waited=40.0)
    assert only.seconds >= 40


def test_a_client_that_trains_little_is_at_the_server_late():
    """What is before the upload is the forward, however small the backward is: the server's worker waits for it."""
    first = ClientWork("a", "g", FAST, [LocalStep(9.0, 1.0, 3.0, 0.0, 0.0)])
    second = work("b", flops=2.0, up=0.0, down=0.0)
    time = round_time([first, second], SERVER, "sequential")
    assert time.clients["b"].finished == pytest.approx(9 + 3 + 3 + 1)  # a's forward, both served in turn, b's backward
    assert time.clients["a"].finished == pytest.approx(9 + 3 + 1)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_time_so_far_is_what_lies_before_now(step):
    """Against the timeline of a client that waits 2 seconds for the server before each of its steps is served."""
    w = work("a", steps=3, adapter_bytes_up=6, adapter_bytes_down=7)
    forward, later = [("compute", 1), ("upload", 4)], [("wait", 2), ("server", 3), ("download", 5), ("compute", 1)]
    timeline = [("download", 7), *(forward + later) * step, *([("upload", 6)] if step == 3 else forward)]
    seconds = sum(takes for _, takes in timeline)
    into = sum(takes for _, takes in later) + (6 if step == 3 else 5)  # since the message before this one came
    for left in range(min(into, seconds) + 1):
        expected, now = dict.fromkeys(("compute", "upload", "server", "download", "wait"), 0), 0
        for part, takes in timeline:
            expected[part] += max(0, min(takes, seconds - left - now))
            now += takes
        found = time_so_far(w, SERVER, step, seconds, left)
        assert {part: getattr(found, part) for part in expected} == expected
        assert found.finished == seconds - left
        assert found.joules == 2.0 * (expected["compute"] + expected["upload"] + expected["download"])
