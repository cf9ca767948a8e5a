"""The virtual clock in a run: seconds that follow from devices and not from this machine."""

import pytest
from rounds import run_round

from atlas_cli.federation.protocol import Ledger
from atlas_cli.federation.simulated import simulate
from atlas_cli.federation.training import set_up

SLOW = {"compute": "1 MFLOP/s", "uplink": "1 Mbit/s", "downlink": "2 Mbit/s", "latency": "10 ms", "watts": "2 W"}


def a_round(federation):
    set_up(federation)
    ledger = Ledger()
    trained = run_round(federation, list(federation.clients), 1, ledger, lambda step, done: None)
    return trained, ledger


def test_no_time_without_devices(make_federation):
    federation = make_federation()
    assert simulate(federation, *a_round(federation)) is None


@pytest.mark.parametrize("update", ["pooled", "sequential", "per-client"])
def test_seconds_scale_with_the_device_and_repeat(make_federation, update):
    def seconds(compute):
        federation = make_federation(
            training={"server_update": update},
            devices={"slow": {**SLOW, "compute": compute}},
            clients={name: {"device": "slow"} for name in "abc"},
        )
        return simulate(federation, *a_round(federation))

    slow, again, fast = seconds("1 MFLOP/s"), seconds("1 MFLOP/s"), seconds("2 MFLOP/s")
    assert slow == again
    for name, time in slow.clients.items():
        assert time.compute == pytest.approx(2 * fast.clients[name].compute)
        assert time.upload == fast.clients[name].upload > 0
        parts = time.compute + time.upload + time.server + time.download + time.wait
        assert parts == pytest.approx(slow.seconds)
    assert slow.joules == pytest.approx(sum(time.joules for time in slow.clients.values()))
