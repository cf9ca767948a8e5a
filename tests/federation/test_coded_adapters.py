"""Adapters and heads that codecs send at the ends of rounds: who holds what, and what it costs."""

import copy
from types import SimpleNamespace

import pytest
import torch
from support.codecs import cases
from support.rounds import run_round
from support.slow import slow, slow_but

from atlas_cli import discovery
from atlas_cli.aggregation.contract import delta
from atlas_cli.audit.uploads import uploaded
from atlas_cli.config.checks import cross_check
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.engines.in_process import local_steps
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.round_loop import collect, deliver, require_delivered, set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.build import build
from atlas_cli.federation.client_state.coding import Coding, Sent
from atlas_cli.planning.method import load_method
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape, round_messages
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import AdapterUpdate, Delivery, HeadDelivery, HeadUpdate, HiddenStates
from atlas_cli.wire.parameter_codec import ParameterCodec, adapter_shapes
from atlas_cli.wire.serialized import from_bytes

FAST = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}
UP, DOWN = {"adapters": {"codec": "int4"}}, {"deliveries": {"codec": "int8"}}
METHODS = [name for name in discovery.names("aggregation.methods") if name != "none"]
REFUSED = ("fed-plora", "ravan")  # for deliveries
COHORT = ["a", "b", "c"]


@pytest.fixture
def ready(make_config):
    def make(method="delta-svd", wire=UP | DOWN, **changes):
        aggregation = {"method": method, **changes.pop("aggregation", {})}
        made = build(
            make_config(aggregation=aggregation, wire=wire, training=FAST | changes.pop("training", {}), **changes)
        )
        set_up(made)
        return made

    return make


def worth(adapters, path):
    adapter = adapters.adapters[path]
    return adapter.scaling * adapter.lora_B.double() @ adapter.lora_A.double()


def a_round(made, number, cohort=COHORT, watch=None):
    """What each client held before and after its local steps, the ledger, and the errors of the merge."""
    ledger = Ledger(watch)
    deliver(made, cohort, ledger)
    began = {c: copy.deepcopy(made.clients[c].exchanged) for c in cohort}
    run_round(made, cohort, number, ledger, lambda *_: None)
    trained = {c: copy.deepcopy(made.clients[c].exchanged) for c in cohort}
    made.aggregator.merge("g", cohort, ledger, number)
    deliver(made, cohort, ledger)
    require_delivered(made, made.clients)
    assert ledger.mismatches() == []
    return began, trained, ledger


@pytest.mark.parametrize(
    ("method", "labels"),
    slow_but([*((m, "client") for m in METHODS), ("fedsa", "server")], ("delta-svd", "client"), ("rolora", "client")),
)
def test_bytes_are_those_of_the_plan_and_clients_hold_what_was_decoded(method, labels, ready):
    wire = UP if method in REFUSED else UP | DOWN
    options = {"options": {"heads": 4, "size": 8}} if method == "ravan" else {}
    made = ready(method, wire, training={"labels": labels}, aggregation=options)
    for number in (1, 2):
        messages = []
        _, _, ledger = a_round(made, number, watch=messages.append)
        for client in COHORT:
            planned = made.plan.by_name[client]
            said = round_messages(made.plan, planned, made.data["g"].task, Shape(4, 8, True))
            up = [*ledger.sizes(client, "adapters", "up"), *ledger.sizes(client, "head", "up")]
            kinds = ("adapters", "head", "base-change", "base-total")
            down = [size for kind in kinds for size in ledger.sizes(client, kind, "down")]
            assert sum(up) == sum(said.end_up)
            assert ledger.coded(client, "adapters") == said.coded_up > 0
            assert sum(len(m.serialized()) for m in messages if m.client == client and m.kind in kinds) == sum(
                up + down
            )
            if method not in REFUSED and (number, method) != (1, "fedex"):  # the plan is of later rounds
                assert sum(down) == sum(said.end_down)
                # a first delivery is sent as it is
                assert ledger.coded(client, "deliveries") == said.coded_down > 0
    lost = ledger.lost(COHORT)
    assert 0.01 < lost["adapters"]["relative_error"] < 0.2
    assert method in REFUSED or 0 < lost["deliveries"]["relative_error"] < 0.02


@pytest.mark.parametrize(
    ("method", "wire", "training"),
    [("zero-pad", {}, {"drift": {"name": "scaffold"}}), *slow(("flora", {}, {}), ("zero-pad", UP | DOWN, {}))],
)
def test_small_messages_at_the_ends_of_rounds_have_a_compact_header(method, wire, training, ready):
    """As many bytes as are written, as many as are planned, and of who has no such header less than before."""
    own = {"b": {"wire": {"header": "safetensors"}}}
    made = ready(method, {**wire, "header": "compact"}, training={"labels": "client"} | training, clients=own)
    for number in (1, 2):
        seen, ledger = [], Ledger()
        ledger.watch = seen.append
        deliver(made, COHORT, ledger)
        run_round(made, COHORT, number, ledger, lambda *_: None)
        made.aggregator.merge("g", COHORT, ledger, number)
        deliver(made, COHORT, ledger)
    ends = [message for message in seen if not isinstance(message, HiddenStates)]
    for message in ends:
        data = message.serialized()
        assert len(data) == message.bytes
        assert all(found.equal(message.tensors[name]) for name, found in from_bytes(data).items())
    for client in COHORT:
        said = round_messages(made.plan, made.plan.by_name[client], made.data["g"].task, Shape(4, 8, True))
        for way, planned in (("up", said.end_up), ("down", said.end_down)):
            found = [each.bytes for each in ends if (each.client, each.direction) == (client, way)]
            assert sum(found) == sum(planned)
    tensors = sum(len(message.tensors) for message in ends if message.client == "a")
    header = {c: sum(each.bytes - each.payload_bytes for each in ends if each.client == c) for c in "ab"}
    assert header["a"] < header["b"] / 2 < 60 * tensors


@pytest.mark.slow
def test_the_group_moves_by_what_clients_changed_of_what_they_were_delivered(ready):
    """delta-svd, against dense sums: what deliveries lose is in no change, and what uploads lose is in all of it."""
    made = ready(wire=UP | DOWN)
    weights = {c: made.aggregator.members[c].weight for c in COHORT}
    for number in (1, 2):
        before = {path: delta(f).double() for path, f in made.aggregator.groups["g"].merged.items()}
        began, trained, ledger = a_round(made, number)
        lost = ledger.lost(COHORT)["adapters"]["relative_error"]
        for path, merged in made.aggregator.groups["g"].merged.items():
            exact = sum(weights[c] * (worth(trained[c], path) - worth(began[c], path)) for c in COHORT)
            exact = exact / sum(weights.values())
            whole = before[path] + exact
            U, S, Vh = torch.linalg.svd(whole)
            best = (U[:, :4] * S[:4]) @ Vh[:4]
            moved = (delta(merged).double() - before[path]).norm()
            assert (delta(merged).double() - best).norm() < 3 * lost * moved
            held = worth(made.clients["a"].exchanged, path)
            assert 0 < (held - delta(merged).double()).norm() < 0.05 * delta(merged).norm()


@pytest.mark.parametrize("method", ["fedsa", *slow("rolora", "delta-svd")])
def test_an_idle_round_changes_nothing_though_clients_hold_what_was_decoded(method, ready):
    """The group's adapter stays to the rounding of sums: what a delivery lost is no change."""
    made = ready(method)
    a_round(made, 1)
    a_round(made, 2)
    before = {path: delta(factors) for path, factors in made.aggregator.groups["g"].merged.items()}
    for number in (3, 4):
        Attendance(made, COHORT, number).begin()
        made.aggregator.merge("g", COHORT, Ledger(), number)
        deliver(made, COHORT, Ledger())
    for path, factors in made.aggregator.groups["g"].merged.items():
        torch.testing.assert_close(delta(factors), before[path], atol=1e-6, rtol=1e-5)


RESUMED = {
    "zero-pad": {"adapters": {"codec": "int4", "feedback": True}, "deliveries": {"codec": "nf4"}},
    "delta-svd": {"adapters": {"codec": "top-k", "options": {"share": 0.2}}, "deliveries": {"codec": "int8"}},
    "rolora": {"adapters": {"codec": "int8", "feedback": True}, "deliveries": {"codec": "int4"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", RESUMED)
def test_a_run_goes_on_bit_for_bit_from_any_round(method, make_config, train_quietly):
    """With feedback, clients that miss rounds, and one that crashes."""
    config = make_config(
        aggregation={"method": method},
        wire=RESUMED[method],
        faults={"crash_at": {"b": {"round": 2, "step": 1}}},
        training={"rounds": 3, "local_steps": 2, "labels": "client", "cohort": 0.67, **FAST},
    )
    whole, saved = build(config), []
    train_quietly(whole, checkpoint=lambda number: saved.append(copy.deepcopy(RunState(whole).capture())))
    kept = {name for name in saved[-1][0] if "/adapters/" in name}
    assert bool(kept) == RESUMED[method]["adapters"].get("feedback", False)
    for done in (1, 2):
        again = build(config)
        RunState(again).restore(*saved[done])
        train_quietly(again, done=done)
        tensors, values = RunState(again).capture()
        assert values == saved[-1][1] and tensors.keys() == saved[-1][0].keys()
        assert [name for name, t in saved[-1][0].items() if not torch.equal(t, tensors[name])] == []


def test_a_dropped_client_keeps_nothing_of_its_upload(make_config, train_quietly):
    """It is back where the round began: with what it was delivered, and what earlier uploads lost."""
    config = make_config(wire=RESUMED["zero-pad"], screen={"max_norm_ratio": 1.0}, training={"rounds": 1, **FAST})
    made = build(config)
    dropped = train_quietly(made).metrics[-1]["dropped"]
    assert dropped and dropped.keys() < set(COHORT)
    for client, member in made.aggregator.members.items():
        assert bool(member.coding.lost) == (client not in dropped)


class Alone:
    """A client and its server with one matrix, no training: changes are as the test says."""

    def __init__(self, wire):
        self.coding = Coding.of(WireConfig.model_validate(wire), load_method("zero-pad")(), 0)
        self.shapes = {"q.lora_A": (3, 70), "q.lora_B": (40, 3)}
        self.held = {name: torch.zeros(shape) for name, shape in self.shapes.items()}

    def upload(self, change, number):
        """What the server adds to what was delivered."""
        self.coding.begin(self.held)
        named = {name: self.held[name] + each for name, each in change.items()}
        sent = Sent(AdapterUpdate("a", named), 4 * 330, HeadUpdate("a", {}), 0, named)
        done = self.coding.upload(sent, self.held, self.shapes, number)
        assert done.adapters.payload_bytes == done.form
        return {name: done.values[name] - self.held[name] for name in self.shapes}


# what is kept of numbers of one round, at most; of another codec nothing is said
KEPT = {"int4": 5 / 7, "int8": 5 / 127, "nf4": 1.5, "bfloat16": 5 / 2**7, "top-k": 60}


@pytest.mark.parametrize(("name", "options"), cases(lambda codec: codec.by_token))
def test_what_was_decoded_and_what_is_kept_is_the_sum_of_changes(name, options):
    """To the rounding of two float32 sums an upload; and what is kept is that of a few uploads (of top-k: of all that
    it has not sent for so long)."""
    asked = {"codec": name, "options": options, "feedback": True}
    one, draw, uploads = Alone({"adapters": asked}), torch.Generator().manual_seed(0), 12
    truth, got = ({part: torch.zeros(shape, dtype=torch.float64) for part, shape in one.shapes.items()} for _ in "ab")
    most = 0.0
    for number in range(uploads):
        change = {part: torch.randn(shape, generator=draw) for part, shape in one.shapes.items()}
        decoded = one.upload(change, number)
        for part in one.shapes:
            truth[part] += change[part].double()
            got[part] += decoded[part].double()
            most = max(most, float(change[part].abs().max() + one.coding.lost[part].abs().max()))
    kept = one.coding.lost
    for part, total in truth.items():
        off = got[part] + kept[part].double() - total
        assert off.abs().max() <= uploads * 2**-22 * most
        assert kept[part].abs().max() < KEPT.get(name, float("inf"))
        assert kept[part].any() or options.get("share") == 1.0


def test_a_deliverys_loss_is_in_the_next_and_nothing_is_sent_twice():
    one = Alone({"deliveries": {"codec": "int8"}})
    goal = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in one.shapes.items()}
    errors = []
    for version in (1, 2, 3):
        sent = Sent(Delivery("a", goal), 4 * 330, HeadDelivery("a", {}), 0, dict(goal))
        done = one.coding.deliver(sent, one.held, one.shapes, ("g", version))
        assert done.adapters.payload_bytes == done.form == 330 + 4 * 6
        one.held = done.values
        errors.append(max(float((goal[name] - t).abs().max()) for name, t in one.held.items()))
    assert errors[1] < errors[0] / 100 and errors[2] < errors[1] / 5 + 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["int8", "nf4", "top-k", "bfloat16"])
def test_changed_rows_alone_are_sent_where_that_is_smaller(codec):
    """What is decoded is the same; 3 rows of A, 3 columns of B, of which some did not change."""
    shapes = {"q.lora_A": (3, 70), "q.lora_B": (40, 3), "head.bias": (5,)}
    whole, some = (
        ParameterCodec.of(WireConfig.model_validate({"adapters": {"codec": codec, "changed_rows": each}}), "adapters")
        for each in (False, True)
    )
    for mask in range(2**7):
        draw = torch.Generator().manual_seed(mask)
        tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        for i in range(3):
            tensors["q.lora_A"][i] *= mask >> i & 1
            tensors["q.lora_B"][:, i] *= mask >> (3 + i) & 1
        tensors["head.bias"] *= mask >> 6
        sent, full = some.encode(tensors, draw), whole.encode(tensors, draw)
        for name, tensor in full.decoded.items():
            assert torch.equal(sent.decoded[name], tensor) and tensor.shape == shapes[name]
        each = [whole.payload_bytes({"x": (1, size)}) for size in (70, 70, 70, 40, 40, 40, 5)]
        by_hand = min(sum(each), 1 + sum(size for i, size in enumerate(each) if mask >> i & 1))
        found = sum(part.nbytes for part in sent.parts.values())
        assert found == by_hand == some.payload_bytes(shapes, sent.changed)
        assert some.decode(sent.parts, shapes).keys() == shapes.keys()


@pytest.mark.slow
def test_a_cohort_of_small_ranks_changes_few_rows(ready):
    """zero-pad keeps the rows of A that nobody sent; what client a, of the largest rank, holds is what was decoded."""
    sizes = {}
    for changed in (False, True):
        made = ready("zero-pad", {"deliveries": {"codec": "int8", "changed_rows": changed}})
        a_round(made, 1, cohort=["b"])
        a_round(made, 2, cohort=["b"])
        ledger = Ledger()
        deliver(made, ["a"], ledger)
        require_delivered(made, ["a"])
        assert ledger.mismatches() == []
        sizes[changed] = ledger.entries["a", "adapters", "down"].payload_bytes
    assert sizes == {False: 4 * 4 * 72, True: 4 * 2 * 72 + 4}  # two of four components in each of four layers


def test_published_shares_of_a_message_in_float32():
    """NVFlare's 25.03 and 14.06 % of Llama-3.2-1B: a scale for 4,096 numbers and 1 KiB for each tensor; one for 64."""
    width, rank = 3072, 16  # Llama 3.2 3B, whose attention is 3,072 to 3,072 for q and o
    shapes = adapter_shapes({"q": rank, "o": rank}, {"q": (width, width), "o": (width, width)}, ("A", "B"))
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    whole = AdapterUpdate("a", tensors)
    for codec, percent in (("int8", 25.03), ("int4", 14.06), ("nf4", 14.06), ("bfloat16", 50.0)):
        found = ParameterCodec.of(WireConfig.model_validate({"adapters": {"codec": codec}}), "adapters")
        sent = AdapterUpdate("a", found.encode(tensors, torch.Generator()).parts)
        assert sent.payload_bytes == found.payload_bytes(shapes)
        assert round(100 * sent.payload_bytes / whole.payload_bytes, 2) == percent
        assert 100 * sent.bytes / whole.bytes < percent + 0.02  # headers included
    numbers, of_model = 1_498_482_688, 147  # of Llama-3.2-1B with an output embedding of its own, as NVFlare sends it
    assert round(100 * (numbers + 4 * numbers / 4096 + 1024 * of_model) / (4 * numbers), 2) == 25.03


def test_an_audit_reads_uploads_as_the_server_decodes_them(ready):
    made, messages = ready("zero-pad", {"adapters": {"codec": "int4"}}), []
    attendance = Attendance(made, COHORT, 1)
    local_steps(made, *begun(attendance), Ledger(), lambda *_: None)
    before = made.aggregator.held_of("a")
    got = made.aggregator.receive("a", Ledger(messages.append))
    scale = {path: adapter.scaling for path, adapter in made.clients["a"].exchanged.adapters.items()}
    began = {f"{p}.lora_A": f.A for p, f in before.items()} | {f"{p}.lora_B": f.B / scale[p] for p, f in before.items()}
    found = uploaded(made, SimpleNamespace(client="a", read=lambda kind: messages[0]), began)
    assert found.keys() == got.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=1e-6)


@pytest.mark.slow
def test_pruned_ranks_go_up_with_what_is_sent(ready):
    made = ready("hetlora", UP | DOWN, aggregation={"options": {"prune": 0.5}})
    for number in (1, 2):
        attendance = Attendance(made, COHORT, number)
        deliver(made, COHORT, Ledger())
        ledger = Ledger()
        trained = local_steps(made, *begun(attendance), ledger, lambda *_: None)
        sent = collect(made, attendance, trained, ledger)
        made.server.finish_round(attendance.present)
        made.aggregator.combine("g", sent, number)
        deliver(made, COHORT, ledger)
        require_delivered(made, COHORT)
        assert sent.keys() == set(COHORT) and ledger.mismatches() == []


def begun(attendance):
    attendance.begin()
    return (attendance,)


@pytest.mark.parametrize(
    ("wire", "changes", "key", "says"),
    [
        ({"adapters": {"codec": "delta"}}, {}, "wire.adapters.codec", "tokens of texts.*int8"),
        ({"deliveries": {"codec": "random-top-k"}}, {}, "wire.deliveries.codec", "tokens of texts"),
        ({"adapters": {"codec": "low-rank"}}, {}, "wire.adapters.codec", "tokens of texts"),
        (DOWN, {"aggregation": {"method": "fed-plora"}}, "wire.deliveries", "other components"),
        (UP, {"aggregation": {"method": "none"}}, "wire.adapters", "neither adapters nor heads are sent"),
        (
            {"adapters": {"codec": "int4", "feedback": True}},
            {"aggregation": {"method": "delta-svd"}},
            "wire.adapters.feedback",
            "aggregation.method: delta-svd puts components in another order",
        ),
        (
            {"adapters": {"codec": "int4", "feedback": True}},
            {"aggregation": {"optimizer": {"name": "adam"}}},
            "wire.adapters.feedback",
            "aggregation.optimizer: adam puts",
        ),
    ],
)
def test_what_cannot_be_encoded_is_refused_with_a_way_out(wire, changes, key, says, make_config):
    with pytest.raises(ConfigError, match=says) as error:
        make_plan(make_config(wire=wire, **changes))
    assert error.value.key == key


@pytest.mark.slow
def test_each_method_is_coded_or_refused_with_a_reason(make_config):
    """What is not refused here is counted, message by message, above."""
    refused = {}
    for method in discovery.names("aggregation.methods"):
        options = {"options": {"heads": 4, "size": 8}} if method == "ravan" else {}
        for name, wire in (("adapters", UP), ("deliveries", DOWN)):
            try:
                make_plan(make_config(aggregation={"method": method, **options}, wire=wire))
            except ConfigError as error:
                assert error.key == f"wire.{name}"
                refused[method, name] = str(error)
    assert refused.keys() == {("none", "adapters"), ("none", "deliveries"), *((m, "deliveries") for m in REFUSED)}
    for why in refused.values():
        assert "are sent; remove it" in why or "or take another aggregation.method" in why


@pytest.mark.parametrize(
    ("wire", "changes", "key", "says"),
    [
        ({"adapters": {"codec": "none", "feedback": True}}, {}, "wire.adapters.feedback", "nothing to add"),
        ({"deliveries": {"codec": "int8", "feedback": True}}, {}, "wire.deliveries.feedback", "is not needed"),
        ({"deliveries": {"codec": "none", "changed_rows": True}}, {}, "wire.deliveries.changed_rows", "codec is none"),
        ({"gradients": {"codec": "int8", "changed_rows": True}}, {}, "wire.gradients.changed_rows", "of adapters"),
        (UP, {"mode": "local-only"}, "wire.adapters", "mode is local-only"),
        (DOWN, {"training": {"asynchrony": {"buffer": 2}}}, "wire.deliveries", "training.asynchrony"),
        (
            UP,
            {"privacy": {"updates": {"clip": 1.0, "noise_multiplier": 1.0, "where": "server"}}},
            "wire.adapters",
            "where: client",
        ),
    ],
)
def test_what_contradicts_the_rest_of_a_config_is_named(wire, changes, key, says, make_config):
    found = {
        ".".join(map(str, problem.path)): problem.message for problem in cross_check(make_config(wire=wire, **changes))
    }
    assert says in found[key]


def test_without_a_codec_nothing_is_encoded(make_config):
    """Off is the path that there was before, for all clients that do not ask for one."""
    wire = {"adapters": {"codec": "none"}, "deliveries": {"codec": "none"}}
    made = build(make_config(wire=wire, clients={"b": {"task_group": "g", "wire": UP}}))
    assert {name: member.coding is not None for name, member in made.aggregator.members.items()} == {
        "a": False,
        "b": True,
        "c": False,
    }
