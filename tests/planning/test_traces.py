"""Rates over virtual time: what is found in closed form against sums over pieces, and files that are no traces."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.planning.devices.clock import ClientWork, LocalStep, round_time
from atlas_cli.planning.devices.cost import download_seconds, upload_seconds
from atlas_cli.planning.devices.devices import Device, Traces, device_of
from atlas_cli.planning.devices.trace_files import read_trace
from atlas_cli.planning.devices.traces import Trace

SERVER = Device("server", compute=1.0, uplink=40.0, downlink=40.0, latency=0.25)


RATES, THERE = st.sampled_from([0.0, 0.5, 8.0, 40.0, 1e3]), st.sampled_from([0.0, 1.0])


@st.composite
def traces(draw, rates=RATES, period=None):
    """A trace, of a period if one is given, else of any or of none."""
    gaps = draw(st.lists(st.floats(0.1, 20), max_size=6))
    times = [math.fsum(gaps[:n]) for n in range(len(gaps) + 1)]
    if period is not None:
        times = [time for time in times if time < period]
    elif draw(st.booleans()):
        period = times[-1] + draw(st.floats(0.1, 20))
    values = [draw(rates) for _ in times]
    if period is None or not any(values):
        values[-1] = 1.0
    return Trace.of(times, values, period)


def passed(trace, since, until):
    """The integral of a rate, piece after piece, and how many."""
    total, period = 0.0, trace.period
    begins = list(zip(trace.times, trace.rates, strict=True))
    for again in range(1 if period is None else int(until / period) + 1):
        for place, (began, rate) in enumerate(begins):
            ends = begins[place + 1][0] if place + 1 < len(begins) else (math.inf if period is None else period)
            low, high = (max(since, began + again * (period or 0)), min(until, ends + again * (period or 0)))
            total += rate * max(0.0, high - low)
    return total


@settings(deadline=None)
@given(trace=traces(), at=st.floats(0, 100), length=st.floats(0, 100), slowdown=st.sampled_from([1.0, 3.0]))
def test_exactly_the_amount_passes_in_the_time_that_is_found(trace, at, length, slowdown):
    amount = trace.mean * length
    ended = at + slowdown * trace.seconds(at, amount, slowdown)
    assert passed(trace, at, ended) == pytest.approx(slowdown * amount, rel=1e-9, abs=1e-6)
    # and not a moment later than it must
    if amount > 1e-3:
        assert passed(trace, at, ended - 1e-7) < slowdown * amount
    assert trace.rate(begins := trace.next_above_zero(at)) > 0
    assert passed(trace, at, begins) == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), length=st.one_of(st.none(), st.floats(0.5, 20)), at=st.floats(0, 100))
def test_a_link_is_down_while_its_device_is_away(data, length, at):
    one = data.draw(traces(period=None if length is None else 3 * length))
    other = data.draw(traces(THERE, period=length))
    try:
        both = one.product(other)
    except ValueError as refused:
        assert "for ever" in str(refused) or "begins anew" in str(refused)
        return
    near = [abs(math.remainder(at - t, trace.period or 1e9)) for trace in (one, other) for t in (0, *trace.times)]
    if min(near) > 1e-6:  # else the times of the two are rounded apart
        assert both.rate(at) == one.rate(at) * other.rate(at)


def test_a_constant_trace_is_a_constant_rate_bit_for_bit(tmp_path):
    """Whatever the rows, the time and the slowdown, alone and in a round."""
    (tmp_path / "same.csv").write_text("seconds,kbit/s\n0,0.0123\n0.1,0.0123\n77.7,0.0123\n", encoding="utf-8")
    given = {"trace": str(tmp_path / "same.csv"), "repeat_every": "100 s"}
    plain = device_of("x", {"compute": "3 FLOP/s", "uplink": "0.0123 kbit/s", "downlink": "0.0123 kbit/s"})
    traced = device_of("x", {"compute": "3 FLOP/s", "uplink": given, "downlink": given})
    for slowdown in (1.0, 1.7):
        for at in (0.0, 0.05, 12345.678):
            for seconds in (upload_seconds, download_seconds):
                assert seconds(123, 3, traced, SERVER, at, slowdown) == seconds(123, 3, plain, SERVER, None, slowdown)
    step = LocalStep(1.1, 2.3, 0.7, 12, 13)
    rounds = [
        round_time([ClientWork(n, "g", device, [step] * 3, 17, 19) for n in "ab"], SERVER, "sequential", began=at)
        for device, at in ((plain, None), (traced, 10.3), (traced, 0.0))
    ]
    assert rounds[0] == rounds[1] == rounds[2]


def test_a_round_reads_a_trace_at_its_own_time():
    """8 bit/s in the first 10 s of each 20, else none; forward 1, upload 4, server 3, download 5, backward 1."""
    link = Trace.of([0, 10], [8.0, 0.0], 20)
    device = replace(device_of("x", {}), compute=1.0, uplink=4.0, downlink=8.0, watts=2.0)
    device = replace(device, traces=Traces(uplink=link, downlink=None, available=None, links=("uplink",)))
    work = ClientWork("a", "g", device, [LocalStep(1, 1, 3, 4, 5)], adapter_bytes_up=2)

    def at(began):
        a = round_time([work], replace(SERVER, latency=None), began=began).clients["a"]
        return a.compute, a.upload, a.server, a.download, a.wait, a.finished

    assert at(0.0) == (2, 4 + (20 - 14) + 2, 3, 5, 0, 22)  # the upload from 1 to 5, that of adapters from 14 on
    assert at(6.0) == (2, 3 + 10 + 1 + 10 + 2, 3, 5, 0, 36)
    assert at(None) == (2, 8 + 4, 3, 5, 0, 22)  # the mean rate


HEAD = "# made up\nseconds,Mbit/s\n"
BAD = {
    "": ": is empty; write e.g. seconds,Mbit/s",
    HEAD: ":2: there is no row",
    "t,Mbit/s\n0,1\n": ":1: column t: the first column is named seconds",
    "seconds,rate\n0,1\n": ":1: column rate: the second column is named by the unit of its rates",
    HEAD + "0,1,2\n": ":3: 3 fields",
    HEAD + "0,fast\n": ":3: column Mbit/s: 'fast' is not a number",
    HEAD + "0,inf\n": ":3: column Mbit/s: 'inf' is not a number",
    HEAD + "0,-1\n": ":3: column Mbit/s: -1 is below 0",
    HEAD + "5,1\n": ":3: column seconds: the first row is at 0, got 5",
    HEAD + "0,1\n2,3\n2,4\n": ":5: column seconds: 2 does not come after 2",
    HEAD + "0,1\n2,0\n": ":4: column Mbit/s: is 0 for ever from some time on",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_trace(text, tmp_path):
    path = tmp_path / "link.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        device_of("phone", {"uplink": {"trace": str(path), "repeat_every": None}})
    assert str(error.value).startswith(f"devices.phone.uplink.trace: {path}{BAD[text].partition(';')[0]}")


def test_what_is_no_trace_of_a_device(tmp_path):
    path = tmp_path / "link.csv"

    def refused(text, **texts):
        path.write_text(text, encoding="utf-8")
        with pytest.raises((ConfigError, ResourceError)) as error:
            device_of("phone", texts)
        return str(error.value)

    given = {"trace": str(path), "repeat_every": "10 s"}
    assert "column seconds: 10 is not below repeat_every (10 s)" in refused(HEAD + "0,1\n10,2\n", uplink=given)
    assert "is 0 for ever" in refused(HEAD + "0,0\n", uplink=given)
    away = {**given, "repeat_every": "15 s"}
    assert "column Mbit/s: the second column is named available" in refused(HEAD + "0,1\n", available=away)
    assert "'2' is neither 1" in refused("seconds,available\n0,2\n", available=away)
    other = tmp_path / "night.csv"
    other.write_text("seconds,available\n0,1\n4,0\n", encoding="utf-8")
    night = {"trace": str(other), "repeat_every": "15 s"}
    said = refused(HEAD + "0,1\n1,2\n", uplink=given, available=night)
    assert said.startswith("devices.phone.uplink: with available: one of the two begins anew after 10 s")
    missing = {"trace": str(tmp_path / "linc.csv")}
    assert refused(HEAD, downlink=missing).endswith("linc.csv: there is no such file; did you mean link.csv?")


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "link.csv"
    for rate in ("1", "20"):
        path.write_text(f"{HEAD}0,{rate}\n", encoding="utf-8")
        assert read_trace({"trace": str(path)}, "uplink", "").rate(0) == float(rate) * 1e6
