"""Quantities with units: what is read, what is refused and with which words, and that what is written is read back."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli import units

KINDS = {
    "bytes": (units.parse_bytes, units.format_bytes),
    "compute": (units.parse_compute, units.format_compute),
    "rate": (units.parse_rate, units.format_rate),
    "time": (units.parse_time, units.format_time),
    "power": (units.parse_power, units.format_power),
}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bytes", "2 GiB", 2 * 1024**3),
        ("bytes", "2GiB", 2 * 1024**3),
        ("bytes", " 1.5 GB ", 1_500_000_000),
        ("bytes", "512 MiB", 512 * 1024**2),
        ("bytes", "7 B", 7),
        ("bytes", "1e3 kB", 1_000_000),
        ("compute", "20 GFLOP/s", 20e9),
        ("compute", "8 TFLOPS", 8e12),
        ("rate", "10 Mbit/s", 10e6),
        ("rate", "10 Mbps", 10e6),
        ("rate", "1.25 MB/s", 10e6),
        ("time", "40 ms", 0.04),
        ("time", "2 min", 120),
        ("time", "5 µs", 5e-6),
        ("power", "5 W", 5),
        ("power", "250 mW", 0.25),
    ],
)
def test_read(kind, text, value):
    assert KINDS[kind][0](text) == pytest.approx(value, rel=1e-15)


def test_sizes_are_whole_numbers():
    assert isinstance(units.parse_bytes("0.3 GiB"), int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["2", 2, 2.5, "-3", "", "two", "1,5 GiB", "nan s", "inf s", None, True, ["2 GiB"]])
def test_what_is_no_quantity_is_refused_by_every_kind(kind, text):
    with pytest.raises(ValueError, match=r"write"):
        KINDS[kind][0](text)


@pytest.mark.parametrize(
    ("kind", "unit"), [("bytes", "GiB"), ("compute", "GFLOP/s"), ("rate", "Mbit/s"), ("time", "ms"), ("power", "W")]
)
@pytest.mark.parametrize("number", ["0", "-1", "0.0", "-0.5", "1e400"])
def test_zero_negative_and_infinite(kind, unit, number):
    with pytest.raises(ValueError, match=r"above zero|out of range"):
        KINDS[kind][0](f"{number} {unit}")


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("bytes", 2, "'2' has no unit; write e.g. 2 GiB"),
        ("bytes", "2", "'2' has no unit; write e.g. 2 GiB"),
        ("bytes", "2 gib", "did you mean GiB"),
        ("bytes", "2 G", "GiB (1024-based) or GB (1000-based)"),
        ("bytes", "2 Gb", "not counted in bits"),
        ("bytes", "2 ms", "use one of: B, KiB"),
        ("bytes", "0.2 B", "less than a byte"),
        ("compute", "20 GFLOP", "GFLOP/s, a rate"),
        ("compute", "20 gflop/s", "did you mean GFLOP/s"),
        ("compute", "3 GHz", "use one of"),
        ("rate", "10 Mb/s", "Mbit/s (bits) or MB/s (bytes)"),
        ("rate", "10 MB", "Mbit/s (bits) or MB/s (bytes)"),
        ("rate", "10 Mbit", "Mbit/s, a rate"),
        ("time", "40 m", "ms or min"),
        ("power", "5 Wh", "not energy"),
    ],
)
def test_the_message_says_what_to_write(kind, text, words):
    with pytest.raises(ValueError, match=r"write|mean|use one of") as caught:
        KINDS[kind][0](text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_suggested_example_is_right(kind):
    with pytest.raises(ValueError, match="has no unit") as caught:
        KINDS[kind][0]("3")
    number, unit = str(caught.value).split("write e.g. ")[1].split(" (")[0].split()
    assert KINDS[kind][0](f"{number} {unit}") > 0


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"bytes"}))
@given(value=st.floats(1e-12, 1e20))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(kind, value):
    parse, write = KINDS[kind]
    assert parse(write(value)) == value


@given(st.integers(1, 2**60))
@settings(max_examples=60, deadline=None)
def test_sizes_are_read_back_exactly(size):
    # above 2**53 a number of bytes is not a float of its own; only whole units are
    size = size if size < 2**53 else size // 2**30 * 2**30
    assert units.parse_bytes(units.format_bytes(size)) == size


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("bytes", 2**31, "2 GiB"),
        ("bytes", 1500, "1500 B"),
        ("compute", 20e9, "20 GFLOP/s"),
        ("rate", 10e6, "10 Mbit/s"),
        ("time", 0.04, "40 ms"),
        ("time", 3.5, "3.5 s"),
        ("power", 200, "200 W"),
    ],
)
def test_written_as_a_person_would(kind, value, text):
    assert KINDS[kind][1](value) == text
    assert math.isfinite(KINDS[kind][0](text))
