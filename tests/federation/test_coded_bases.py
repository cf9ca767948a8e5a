"""Methods that merge into the base, with coded deliveries: who holds which base, and what it costs."""

import copy

import pytest
import torch
from support.rounds import run_round
from support.slow import slow

from atlas_cli.aggregation.contract import Factors, delta
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.experiment.round_loop import deliver, require_delivered, set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.whole_adapters import fold_base_change
from atlas_cli.federation.build import build
from atlas_cli.federation.merging.base_change import BaseChange
from atlas_cli.federation.merging.coded_rows import RowsCodec
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import BaseRows, BaseTotal

FAST = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}
WIRE = {"adapters": {"codec": "int8"}, "deliveries": {"codec": "int4"}}


def runs(adapters, path):
    """dW of a layer as a client runs it, dense."""
    total = sum(B.double() @ A.double() for A, B in adapters.frozen.get(path, ()))
    if path in adapters.adapters:
        own = adapters.adapters[path]
        total = total + (own.scaling * own.lora_B.double() @ own.lora_A.double()).detach()
    return total


class Receiver:
    """A client that goes by its messages alone: it has no other way to the group."""

    def __init__(self, made, name):
        member = made.aggregator.members[name]
        self.change, self.features = BaseChange(), made.aggregator.features
        self.codec = RowsCodec.of(member.group, made.aggregator.members, made.aggregator.method)
        self.version = 0

    def take(self, message):
        if isinstance(message, BaseTotal):
            self.change.total = {}
        raw = {name: tensor for name, tensor in message.named.items() if ".base_" in name}
        for path in dict.fromkeys(name.rpartition(".")[0] for name in raw):
            self.grow({path: Factors(raw[f"{path}.base_A"], raw[f"{path}.base_B"])})
        if "rows" in message.named:
            for rows in self.codec.decode(message.named, self.features):
                self.grow(rows)

    def grow(self, rows):
        self.version += 1
        self.change.grow(rows, self.version)


@pytest.mark.parametrize("method", ["fedex", *slow("flora")])
def test_who_decodes_what_was_sent_has_the_groups_base(method, make_config):
    """Whatever a client missed; it is what it trains on, whatever its rank, and what is exported, and its loss is in
    the error of the merge."""
    made, messages = build(make_config(aggregation={"method": method}, wire=WIRE, training=FAST)), []
    set_up(made)
    group, paths = made.aggregator.groups["g"], list(made.aggregator.groups["g"].merged)
    receivers = {name: Receiver(made, name) for name in "abc"}
    weights = {name: made.aggregator.members[name].weight for name in "abc"}
    for number, cohort in ((1, "abc"), (2, "ab"), (3, "abc"), (4, "ab"), (5, "abc")):
        ledger = Ledger(messages.append)
        deliver(made, cohort, ledger)
        for message in (each for each in messages if isinstance(each, BaseRows | BaseTotal)):
            receivers[message.client].take(type(message).of(message.client, dict(message.tensors)))
        messages.clear()
        for name in cohort:
            for path in paths if number > 1 else ():
                A, B = receivers[name].change.total[path]
                assert torch.equal(A, group.change.total[path].A) and torch.equal(B, group.change.total[path].B)
                torch.testing.assert_close(
                    runs(made.clients[name].adapters, path), delta(group.change.total[path]).double(), atol=1e-6, rtol=0
                )
        before = {name: copy.deepcopy(made.clients[name].adapters) for name in cohort}
        total = {path: delta(f).double() for path, f in group.change.total.items()}
        run_round(made, list(cohort), number, ledger, lambda *_: None)
        after = {name: copy.deepcopy(made.clients[name].adapters) for name in cohort}
        errors = made.aggregator.merge("g", list(cohort), ledger, number)
        off = size = 0.0
        for path in paths:
            moved = sum(weights[n] * (runs(after[n], path) - runs(before[n], path)) for n in cohort)
            exact = total.get(path, 0) + moved / sum(weights[n] for n in cohort)
            off += float((delta(group.change.total[path]).double() - exact).square().sum())
            size += float(exact.square().sum())
        assert errors.overall.total == pytest.approx((off / size) ** 0.5, rel=0.1)  # of what int8 sent up
        assert 0 < errors.overall.total < 0.2
        assert ledger.mismatches() == []
    deliver(made, "abc", Ledger())
    require_delivered(made, made.clients)
    exported = fold_base_change(made, group.model())
    for path in paths:
        torch.testing.assert_close(runs(exported, path), delta(group.change.total[path]).double(), atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_bytes_by_hand(make_config):
    """flora, int8: each row of A and column of B with a scale, 4 bytes a layer, nothing else; base-total as it is."""
    made = build(make_config(aggregation={"method": "flora"}, wire={"deliveries": {"codec": "int8"}}, training=FAST))
    set_up(made)

    def a_round(number, cohort):
        ledger = Ledger()
        deliver(made, cohort, ledger)
        run_round(made, cohort, number, ledger, lambda *_: None)
        made.aggregator.merge("g", cohort, ledger, number)
        deliver(made, cohort, ledger)
        assert ledger.mismatches() == []
        return ledger

    for number in (1, 2):
        entry = a_round(number, ["a", "b", "c"]).entries["b", "base-change", "down"]
        assert entry.payload_bytes == 4 * 9 * (32 + 4 + 32 + 4) + 4 * 4 == entry.closed_form_bytes
    ledger = a_round(3, ["a", "b", "c"])
    assert 0 < ledger.lost("abc")["deliveries"]["relative_error"] < 0.02
    a_round(4, ["a", "b"])
    a_round(5, ["a", "b"])
    two = Ledger()
    deliver(made, ["c"], two)  # two merges of 6 rows in one message
    assert two.entries["c", "base-change", "down"].payload_bytes == 2 * (4 * 6 * 72 + 4 * 4)
    for number in range(6, 12):
        a_round(number, ["a", "b"])
    late = Ledger()
    deliver(made, ["c"], late)
    assert late.entries["c", "base-total", "down"].payload_bytes == 4 * 4 * 32 * 64


@pytest.mark.parametrize("method", slow("fedex", "flora"))
def test_a_run_goes_on_bit_for_bit_from_any_round(method, make_config, train_quietly, tmp_path, request):
    """With cohorts, a client that crashes, and idle clients put away."""
    config = make_config(
        aggregation={"method": method},
        wire=WIRE,
        faults={"crash_at": {"b": {"round": 2, "step": 1}}},
        engine={"offload": "1 KiB"} if method == "flora" else {},
        output={"dir": str(tmp_path)},
        training={"rounds": 4, "local_steps": 1, "labels": "client", "cohort": 0.67, **FAST},
    )

    def made():
        federation = build(config)
        if federation.offload is not None:
            request.addfinalizer(federation.offload.store.close)
        return federation

    whole, saved = made(), []
    train_quietly(whole, checkpoint=lambda number: saved.append(copy.deepcopy(RunState(whole).capture())))
    assert any("/coded/" in name for name in saved[2][0])
    for done in (1, 3):
        again = made()
        RunState(again).restore(*saved[done])
        train_quietly(again, done=done)
        tensors, values = RunState(again).capture()
        assert values == saved[-1][1] and tensors.keys() == saved[-1][0].keys()
        assert [name for name, t in saved[-1][0].items() if not torch.equal(t, tensors[name])] == []
    tensors, values = copy.deepcopy(saved[2])
    name = next(name for name in tensors if "/coded/" in name)
    tensors[name] = tensors[name][:-1]
    with pytest.raises(ResourceError, match="is not what its rows are sent as"):
        RunState(made()).restore(tensors, values)


def test_two_codecs_of_one_base_are_refused(make_config):
    wire = {"deliveries": {"codec": "int8"}}
    clients = {"b": {"wire": {"deliveries": {"codec": "int4"}}}}
    with pytest.raises(ConfigError, match=r"the same for clients of g by what they decode.*one codec") as error:
        make_plan(make_config(aggregation={"method": "flora"}, wire=wire, clients=clients))
    assert error.value.key == "clients.b.wire.deliveries"
    make_plan(make_config(aggregation={"method": "zero-pad"}, wire=wire, clients=clients))
