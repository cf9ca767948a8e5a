"""Keys that take a text or a section: a rate, or a trace of it."""

import pytest

from atlas_cli.config.load import load_config
from atlas_cli.errors import ConfigError

CONFIG = """name: x
model: {name: minilm}
devices:
  phone:
    uplink: GIVEN
    available: {trace: there.csv}
task_groups: {g: {task: sequence-classification, data: {corpus: trec-questions}}}
clients: {a: {task_group: g, device: phone}}
"""


@pytest.fixture
def load(tmp_path):
    def of(given):
        (tmp_path / "x.yaml").write_text(CONFIG.replace("GIVEN", given), encoding="utf-8")
        return load_config(tmp_path / "x.yaml").config.devices["phone"]

    return of


def test_a_trace_is_looked_for_beside_the_config(load, tmp_path):
    (tmp_path / "up.csv").write_text("seconds,Mbit/s\n0,1\n", encoding="utf-8")
    traces = load("{trace: up.csv, repeat_every: 24 h}").traces
    assert traces["uplink"].trace == str(tmp_path / "up.csv") and traces["available"].trace == "there.csv"
    assert load("10 Mbit/s").traces.keys() == {"available"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("10", "devices.phone.uplink: '10' has no unit"),
        ("[1]", "devices.phone.uplink: [1] is not the rate of a link"),
        ("{}", "devices.phone.uplink.trace: is missing"),
        ("{trace: 3}", "devices.phone.uplink.trace: expected text, got 3"),
        ("{trac: up.csv}", "devices.phone.uplink.trac is not a known key; did you mean trace?"),
        ("{trace: up.csv, repeat_every: 3}", "devices.phone.uplink.repeat_every: '3' has no unit"),
    ],
)
def test_one_line_says_what_is_wrong(load, given, says, tmp_path):
    with pytest.raises(ConfigError) as error:
        load(given)
    assert str(error.value).startswith(f"{tmp_path / 'x.yaml'}:5: {says}") and "\n" not in str(error.value)
