"""The virtual clock in a run: seconds that follow from devices and not from this machine."""

import pytest
import torch
from support.rounds import run_round

from atlas_cli.experiment.round_loop import deliver, set_up
from atlas_cli.federation.round_time import simulate
from atlas_cli.planning.devices.devices import server_device
from atlas_cli.planning.round_bytes import Shape, round_messages
from atlas_cli.wire.codecs.int4 import Codec as Int4
from atlas_cli.wire.codecs.int8 import Codec as Int8
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, Fingerprint

SLOW = {"compute": "1 MFLOP/s", "uplink": "1 Mbit/s", "downlink": "2 Mbit/s", "latency": "10 ms", "watts": "2 W"}


def a_round(federation):
    set_up(federation)
    ledger = Ledger()
    trained = run_round(federation, list(federation.clients), 1, ledger, lambda step, done: None)
    return trained, ledger


def test_no_time_without_devices(make_federation):
    federation = make_federation()
    assert simulate(federation, *a_round(federation)) is None


def latency(federation):
    return 0.01 + server_device(federation.config).latency


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_encoding_and_decoding_take_the_time_of_their_numbers(make_federation, labels):
    """Up by int4, down by int8, on a client of 1 MFLOP/s; each end encodes what it sends and decodes what it gets."""

    def time_of(**wire):
        devices = {"devices": {"slow": SLOW}, "server": {"device": "slow"}, "training": {"labels": labels}}
        federation = make_federation(**devices, clients={name: {"device": "slow"} for name in "abc"}, wire=wire)
        trained, ledger = a_round(federation)
        numbers = sum(rows * tokens for rows, tokens in trained["a"].shapes) * federation.base.hidden_size
        return simulate(federation, {"a": trained["a"]}, ledger).clients["a"], numbers

    plain, numbers = time_of()
    kinds = {"activations": {"codec": "int4"}, "gradients": {"codec": "int8"}}
    if labels == "client":
        kinds |= {"features": {"codec": "int8"}, "feature_gradients": {"codec": "int4"}}
    coded, _ = time_of(**kinds)
    messages = 1 if labels == "server" else 2  # each way
    client = messages * (Int4.encode_flops + Int8.decode_flops)
    server = messages * (Int4.decode_flops + Int8.encode_flops)
    assert coded.compute - plain.compute == pytest.approx(numbers * client / 1e6)
    assert coded.server - plain.server == pytest.approx(numbers * server / 1e6)


@pytest.mark.parametrize("labels", ["server", "client"])
def test_adapters_and_heads_take_the_time_of_their_numbers_as_it_is_planned(make_federation, labels):
    """A client encodes what it sends by int4, and decodes what it gets by int8."""

    def ended(**wire):
        devices = {"devices": {"slow": SLOW}, "training": {"labels": labels}}
        federation = make_federation(**devices, clients={name: {"device": "slow"} for name in "abc"}, wire=wire)
        trained, ledger = a_round(federation)
        federation.aggregator.merge("g", list("abc"), ledger, 1)
        deliver(federation, list("abc"), ledger)
        return federation, simulate(federation, trained, ledger)

    (plain, before), (coded, after) = ended(), ended(adapters={"codec": "int4"}, deliveries={"codec": "int8"})
    for client in plain.plan.clients:
        numbers = sum(tensor.numel() for tensor in plain.clients[client.name].trained())
        more = after.clients[client.name].compute - before.clients[client.name].compute
        assert more == pytest.approx(numbers * (Int4.encode_flops + Int8.decode_flops) / 1e6, rel=1e-6)
        said = round_messages(coded.plan, coded.plan.by_name[client.name], coded.data["g"].task, Shape(4, 8, True))
        assert (said.coded_up, said.coded_down) == (numbers, numbers)


def test_steps_have_the_bytes_of_their_own_batches(make_federation):
    federation = make_federation(devices={"slow": SLOW}, clients={name: {"device": "slow"} for name in "abc"})
    set_up(federation)
    ledger, seen = Ledger(), []
    ledger.watch = seen.append
    trained = run_round(federation, list("abc"), 1, ledger, lambda step, done: None)
    shapes = trained["a"].shapes
    assert len({tokens for _, tokens in shapes}) > 1
    sent = [message.bytes for message in seen if (message.client, message.direction) == ("a", "up")]
    assert ledger.sizes("a", "activations", "up") == sent and len(set(sent)) > 1
    up = simulate(federation, {"a": trained["a"]}, ledger).clients["a"].upload
    assert up == pytest.approx(8 * sum(sent) / 1e6 + len(sent) * latency(federation))


def test_a_head_is_a_message_of_its_own_and_costs_a_latency_of_its_own(make_federation):
    federation = make_federation(
        training={"labels": "client"}, devices={"slow": SLOW}, clients={name: {"device": "slow"} for name in "abc"}
    )
    trained, ledger = a_round(federation)
    before = simulate(federation, trained, ledger).clients["a"].upload
    federation.aggregator.receive("a", ledger)
    sizes = [*ledger.sizes("a", "adapters", "up"), *ledger.sizes("a", "head", "up")]
    after = simulate(federation, trained, ledger).clients["a"].upload
    assert len(sizes) == 2 and after - before == pytest.approx(8 * sum(sizes) / 1e6 + 2 * latency(federation))


@pytest.mark.slow
def test_batches_of_a_fingerprint_are_sent_before_the_first_step(make_federation):
    federation = make_federation(devices={"slow": SLOW}, clients={name: {"device": "slow"} for name in "abc"})
    trained, ledger = a_round(federation)
    plain = simulate(federation, trained, ledger)
    again = Ledger()
    for size in (1, 1, 100_000):
        again.count(Activations("a", torch.zeros(size)), 0)
    again.count(Fingerprint("a", torch.zeros(1)), 0)
    for client in federation.clients:
        again.add(ledger.accounts[client], [client])
    first = simulate(federation, trained, again)
    # it is a's first step that comes later: b waits with its second
    assert first.clients["a"].upload - plain.clients["a"].upload == pytest.approx(3.2, rel=0.1)
    assert first.clients["b"].finished - plain.clients["b"].finished > 1
