"""The split layer that privacy asks for: measured leakage as a lower end, memory as the upper one."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.errors import ConfigError, ResourceError, TooFewClientsError
from atlas_cli.planning.cuts.choice import choose_split
from atlas_cli.planning.cuts.leakage import KNOWN, Leakage, read_leakage
from atlas_cli.planning.cuts.table import Setting
from atlas_cli.planning.devices.devices import Device

SMALL = Setting(batch=4, tokens=32, rank=2)
FALLING = Leakage({1: 0.9, 2: 0.7, 3: 0.4, 4: 0.2}, "nearest embedding", "a test")


@pytest.fixture(scope="module")
def peaks(model_folder):
    return [row.memory.peak for row in choose_split(model_folder("bert"), SMALL).rows]


@pytest.fixture
def choose(model_folder):
    """``choose(memory, limit, leakage)`` for a model of four blocks."""

    def call(memory=None, limit=None, leakage=FALLING, server=None):
        device = Device("phone", memory) if memory is not None else None
        return choose_split(model_folder("bert"), SMALL, device, server, leakage=leakage, max_leakage=limit)

    return call


@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 10), min_size=4, max_size=4),
    st.integers(0, 10),
    st.integers(1, 4),
)
def test_the_choice_is_the_deepest_of_what_both_ends_leave(model_folder, peaks, tenths, limit, fits):
    shares = [n / 10 for n in tenths]
    leakage = Leakage(dict(enumerate(shares, start=1)), "a", "b")
    device = Device("phone", peaks[fits - 1])
    choice = choose_split(model_folder("bert"), SMALL, device, leakage=leakage, max_leakage=limit / 10)
    # who sees a layer can compute all deeper ones
    left = [layer for layer in range(1, fits + 1) if max(shares[layer - 1 :]) <= limit / 10]
    assert choice.layer == (max(left) if left else None)
    assert choice.feasible == ((min(left), max(left)) if left else None)
    for row in choice.rows:
        leaks, large = max(shares[row.layer - 1 :]) > limit / 10, row.layer > fits
        assert choice.limits_broken(row) == ("memory",) * large + ("leakage",) * leaks
    if not left:
        with pytest.raises(TooFewClientsError) as caught:
            choice.require()
        assert caught.value.exit_code == 5 and choice.remedies


def test_reasons(choose, peaks):
    choice = choose(peaks[2], 0.7)
    assert (choice.layer, choice.feasible) == (3, (2, 3))
    assert "below layer 2 the leakage is above 0.7" in choice.reason
    assert "leakage is at most 0.95 at all of these" in choose(peaks[2], 0.95).reason


def test_without_a_device_the_middle_or_deeper(choose):
    assert (choose(limit=0.7).layer, choose(limit=0.7).feasible) == (2, (2, 4))
    deeper = choose(limit=0.3)
    assert (deeper.layer, deeper.feasible) == (4, (4, 4))
    assert deeper.reason == "the shallowest whose leakage is allowed; below layer 4 the leakage is above 0.3"
    assert choose().layer == 2 and choose().feasible is None


@pytest.mark.slow
def test_what_would_help_helps(choose, peaks):
    """Every remedy that is named, tried."""
    nothing = choose(peaks[1], 0.5)
    assert nothing.layer is None
    assert "layer 3, the shallowest that leaks no more than 0.5, needs" in nothing.reason
    assert nothing.remedies[-1] == "--max-leakage 0.7 allows layer 2"
    assert choose(peaks[1], 0.7).layer == 2
    too_much = choose(limit=0.1)
    assert "every split layer" in too_much.reason and too_much.remedies == ("--max-leakage 0.2 allows layer 4",)
    assert choose(limit=0.2).layer == 4
    hopeless = choose(peaks[0] - 1, 0.1)
    assert hopeless.layer is None and "use another model" in hopeless.remedies
    server = Device("nas", memory=1000)
    assert "fits server nas" in choose(peaks[3], 0.5, server=server).reason


def test_only_layers_that_fit_must_be_known(choose, peaks):
    partly = replace(FALLING, layers={1: 0.9, 2: 0.7})
    assert choose(peaks[1], 0.8, partly).layer == 2
    with pytest.raises(ConfigError, match=r"not known at split layer 3; .*leakage file") as caught:
        choose(peaks[2], 0.8, partly)
    assert caught.value.key == "--max-leakage"
    with pytest.raises(ConfigError, match="at split layer 1, 2, 3 and 1 more"):
        choose(limit=0.8, leakage=None)
    assert choose(peaks[2], None, partly).layer == 3  # shown, and limits nothing


@pytest.mark.parametrize("limit", [-0.1, 1.1, math.nan])
def test_a_limit_is_a_share(choose, limit):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        choose(limit=limit)


def test_layers_that_the_model_does_not_have(choose):
    with pytest.raises(ConfigError, match=r"9 is not a split layer of .*, which has 4"):
        choose(leakage=replace(FALLING, layers={9: 0.1}))


def test_the_packaged_model_leaks_less_with_depth():
    assert [KNOWN["minilm"].worst(layer) for layer in range(1, 7)] == list(KNOWN["minilm"].layers.values())


def test_a_file(tmp_path):
    path = tmp_path / "leak.json"
    path.write_text(
        json.dumps({"layer": {"1": 0.99, "6": 0}, "attack": "inversion", "source": "a run"}), encoding="utf-8"
    )
    assert read_leakage(path) == Leakage({1: 0.99, 6: 0.0}, "inversion", "a run")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "invalid JSON"),
        ("[]", "a leakage file is"),
        ('{"layer": {"1": 0.5}, "attack": "a"}', "source: field required"),
        ('{"layer": {"1": 1.5}, "attack": "a", "source": "b"}', "layer.1: input should be less than or equal to 1"),
        ('{"layer": {"1": NaN}, "attack": "a", "source": "b"}', "layer.1"),
        ('{"layer": {"0": 0.5}, "attack": "a", "source": "b"}', "layer.0: input should be greater than or equal to 1"),
        ('{"layer": {"x": 0.5}, "attack": "a", "source": "b"}', "layer.x: input should be a valid integer"),
        ('{"layer": {}, "attack": "a", "source": "b", "layers": 3}', "layers: extra inputs"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else(text, words, tmp_path):
    path = tmp_path / "leak.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"leak\.json") as caught:
        read_leakage(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ResourceError, match="No such file"):
        read_leakage(tmp_path / "leak.json")
